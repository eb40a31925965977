-- Phase 1: the example database.
--
--   mysql -u root -p < database_setup.sql
--
-- This RESETS the tables customers and page_views of the database iterable_challenge: whatever they
-- hold is dropped, and 15 customers with 40 page views are put in. Run it as often as you like.
--
-- All times are relative to now, so the answer is the same on any day and at any hour. Exactly three
-- customers qualify for Query 2 of phase2_queries.sql, in this order:
--
--   sarah.johnson@email.com    2 hours ago
--   olivia.brown@email.com     1 day ago
--   mia.harris@email.com       3 days ago
--
-- To qualify, a customer is on the plan 'pro' and has seen 'pricing' or 'settings' since midnight
-- seven days ago. Everybody else misses that by one thing, named beside the row.
--
-- The job needs a user of its own, who may only read. With a password of yours:
--
--   CREATE USER 'iterable_sync'@'localhost' IDENTIFIED BY '...';
--   GRANT SELECT ON iterable_challenge.* TO 'iterable_sync'@'localhost';
--
-- Runs on MySQL 8.0 or newer and MariaDB 10.2 or newer.

SET NAMES utf8mb4;
SET time_zone = '+00:00';

-- utf8mb4 holds every character, emoji too. This collation is the one that all servers of the family
-- know; it compares without regard to case, so an email cannot be entered twice in another spelling.
CREATE DATABASE IF NOT EXISTS iterable_challenge
    CHARACTER SET utf8mb4
    COLLATE utf8mb4_general_ci;

USE iterable_challenge;

-- The views first: they refer to the customers.
DROP TABLE IF EXISTS page_views;
DROP TABLE IF EXISTS customers;

CREATE TABLE customers (
    id         INT UNSIGNED NOT NULL AUTO_INCREMENT,
    email      VARCHAR(254) NOT NULL,                  -- 254 is the longest address mail can carry
    first_name VARCHAR(100) NULL,                      -- not everybody tells
    last_name  VARCHAR(100) NULL,
    plan_type  VARCHAR(20)  NOT NULL DEFAULT 'free',   -- free, basic, pro, pro_trial, enterprise
    created_at TIMESTAMP    NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP    NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    PRIMARY KEY (id),
    UNIQUE KEY ux_customers_email (email)
) ENGINE = InnoDB;

-- event_time is a TIMESTAMP, not a DATETIME: it is an instant. The server keeps it in UTC and shows it
-- in the time zone of whoever asks, so a writer in Berlin and a reader in New York mean the same moment.
-- A DATETIME is only the hands of a clock, and each session would read its own moment into it.
CREATE TABLE page_views (
    id         BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    user_id    INT UNSIGNED    NOT NULL,
    page       VARCHAR(100)    NOT NULL,
    event_time TIMESTAMP       NOT NULL DEFAULT CURRENT_TIMESTAMP,  -- when the page was seen
    browser    VARCHAR(50)     NULL,
    location   VARCHAR(100)    NULL,
    created_at TIMESTAMP       NOT NULL DEFAULT CURRENT_TIMESTAMP,  -- when this row was written
    PRIMARY KEY (id),
    KEY ix_page_views_user (user_id),
    -- Query 2 finds its rows by the first two columns and reads the rest from the index itself, so it
    -- never visits the table. On millions of views that is seconds instead of minutes.
    KEY ix_page_views_recent (page, event_time, user_id, browser, location),
    CONSTRAINT fk_page_views_user FOREIGN KEY (user_id) REFERENCES customers (id)
) ENGINE = InnoDB;

INSERT INTO customers (id, email, first_name, last_name, plan_type, created_at) VALUES
    ( 1, 'sarah.johnson@email.com',    'Sarah',     'Johnson',  'pro',        NOW() - INTERVAL 420 DAY),  -- qualifies, first
    ( 2, 'michael.chen@email.com',     'Michael',   'Chen',     'free',       NOW() - INTERVAL 390 DAY),  -- recent views, but free
    ( 3, 'emily.davis@email.com',      'Emily',     'Davis',    'basic',      NOW() - INTERVAL 365 DAY),  -- recent views, but basic
    ( 4, 'james.wilson@email.com',     'James',     'Wilson',   'pro',        NOW() - INTERVAL 340 DAY),  -- pro, but the views are 8 days old
    ( 5, 'olivia.brown@email.com',     'Olivia',    'Brown',    'pro',        NOW() - INTERVAL 310 DAY),  -- qualifies, second
    ( 6, 'daniel.martinez@email.com',  'Daniel',    'Martinez', 'pro',        NOW() - INTERVAL 280 DAY),  -- pro, but saw only other pages
    ( 7, 'sophia.garcia@email.com',    'Sophia',    'García',   'enterprise', NOW() - INTERVAL 250 DAY),  -- recent views, but enterprise
    ( 8, 'liam.anderson@email.com',    'Liam',      'Anderson', 'pro',        NOW() - INTERVAL 220 DAY),  -- pro, but without any view
    ( 9, 'ava.thomas@email.com',       'Ava',       'Thomas',   'free',       NOW() - INTERVAL 190 DAY),  -- several views at one instant, but free
    (10, 'noah.taylor@email.com',      'Noah',      'Taylor',   'free',       NOW() - INTERVAL 160 DAY),  -- free, and other pages only
    (11, 'mia.harris@email.com',       'Mia',       'Harris',   'pro',        NOW() - INTERVAL 130 DAY),  -- qualifies, third; a tie decides by which view
    (12, 'ethan.clark@email.com',      'Ethan',     'Clark',    'pro',        NOW() - INTERVAL 100 DAY),  -- pro and active, but pricing was long ago
    (13, 'isabella.lewis@email.com',   'Isabella',  'Lewis',    'pro_trial',  NOW() - INTERVAL  70 DAY),  -- recent views, but a trial is not 'pro'
    (14, 'lucas.walker@email.com',     'Lucas',     'Walker',   'pro',        NOW() - INTERVAL  40 DAY),  -- pro, but the pages only sound alike
    (15, 'charlotte.young@email.com',  NULL,        NULL,       'basic',      NOW() - INTERVAL  10 DAY);  -- recent views, but basic; gave no name

-- One statement, so that NOW() is one and the same instant in all 40 rows.
INSERT INTO page_views (id, user_id, page, event_time, browser, location) VALUES
    -- Sarah: several views; the latest of 'pricing' and 'settings' counts, not her later look at the dashboard.
    ( 1,  1, 'pricing',          NOW() - INTERVAL   9 DAY,    'Chrome',  'New York'),       -- too old
    ( 2,  1, 'pricing',          NOW() - INTERVAL   3 DAY,    'Chrome',  'New York'),
    ( 3,  1, 'settings',         NOW() - INTERVAL  26 HOUR,   'Safari',  'Boston'),
    ( 4,  1, 'pricing',          NOW() - INTERVAL   2 HOUR,   'Chrome',  'New York'),       -- delivered
    ( 5,  1, 'dashboard',        NOW() - INTERVAL  30 MINUTE, 'Chrome',  'New York'),       -- later, but another page

    -- Olivia: her latest view has not the highest id, because the id says when a row was written.
    ( 6,  5, 'settings',         NOW() - INTERVAL   1 DAY,    'Firefox', 'San Francisco'),  -- delivered
    ( 7,  5, 'pricing',          NOW() - INTERVAL   2 DAY,    'Firefox', 'San Francisco'),
    ( 8,  5, 'pricing',          NOW() - INTERVAL   5 DAY,    'Chrome',  'Oakland'),
    ( 9,  5, 'home',             NOW() - INTERVAL   3 HOUR,   'Firefox', 'San Francisco'),  -- another page

    -- Mia: two views at the same instant. The higher id wins, or the winner would be a matter of luck.
    (10, 11, 'pricing',          NOW() - INTERVAL   4 DAY,    'Edge',    'Chicago'),
    (11, 11, 'pricing',          NOW() - INTERVAL   3 DAY,    'Edge',    'Chicago'),        -- the same instant, the lower id
    (12, 11, 'settings',         NOW() - INTERVAL   3 DAY,    'Safari',  'Chicago'),        -- delivered
    (13, 11, 'blog',             NOW() - INTERVAL   1 DAY,    'Edge',    'Chicago'),        -- another page

    -- James: pro, and only 'pricing' and 'settings', but 8 days and more ago.
    (14,  4, 'pricing',          NOW() - INTERVAL   8 DAY,    'Chrome',  'Seattle'),
    (15,  4, 'settings',         NOW() - INTERVAL   8 DAY,    'Chrome',  'Seattle'),
    (16,  4, 'pricing',          NOW() - INTERVAL  12 DAY,    'Chrome',  'Seattle'),

    -- Daniel: pro and recent, but never on one of the two pages.
    (17,  6, 'dashboard',        NOW() - INTERVAL   1 HOUR,   'Safari',  'Miami'),
    (18,  6, 'blog',             NOW() - INTERVAL   2 DAY,    'Safari',  'Miami'),
    (19,  6, 'home',             NOW() - INTERVAL   4 DAY,    'Safari',  'Orlando'),

    -- Ethan: pro; what is recent is another page, what is 'pricing' is old.
    (20, 12, 'dashboard',        NOW() - INTERVAL   2 HOUR,   'Firefox', 'Denver'),
    (21, 12, 'pricing',          NOW() - INTERVAL  10 DAY,    'Firefox', 'Denver'),

    -- Lucas: pro and recent, but the names of his pages only contain the two words.
    (22, 14, 'pricing-faq',      NOW() - INTERVAL   1 DAY,    'Chrome',  'Austin'),
    (23, 14, 'account-settings', NOW() - INTERVAL   2 DAY,    'Chrome',  'Austin'),

    -- Michael and Ava: the right pages, recently, but free.
    (24,  2, 'pricing',          NOW() - INTERVAL   1 HOUR,   'Chrome',  'San Jose'),
    (25,  2, 'pricing',          NOW() - INTERVAL   1 DAY,    'Chrome',  'San Jose'),
    (26,  2, 'settings',         NOW() - INTERVAL   2 DAY,    'Firefox', 'San Jose'),
    (27,  9, 'pricing',          NOW() - INTERVAL   5 HOUR,   'Safari',  'Portland'),
    (28,  9, 'settings',         NOW() - INTERVAL   5 HOUR,   'Safari',  'Portland'),       -- the same instant

    -- Noah: neither the plan nor the pages.
    (29, 10, 'home',             NOW() - INTERVAL   6 HOUR,   'Edge',    'Phoenix'),
    (30, 10, 'blog',             NOW() - INTERVAL   2 DAY,    'Edge',    'Phoenix'),

    -- Emily and Charlotte: the right pages, recently, but basic.
    (31,  3, 'settings',         NOW() - INTERVAL   3 HOUR,   'Chrome',  'Dallas'),
    (32,  3, 'pricing',          NOW() - INTERVAL   2 DAY,    'Chrome',  'Dallas'),
    (33, 15, 'pricing',          NOW() - INTERVAL   6 HOUR,   'Chrome',  NULL),             -- place unknown
    (34, 15, 'settings',         NOW() - INTERVAL   5 DAY,    NULL,      'Houston'),        -- browser unknown
    (35, 15, 'home',             NOW() - INTERVAL   9 DAY,    'Chrome',  'Houston'),

    -- Sophia: the right pages, recently, but enterprise.
    (36,  7, 'pricing',          NOW() - INTERVAL  30 MINUTE, 'Safari',  'Los Angeles'),
    (37,  7, 'settings',         NOW() - INTERVAL   1 DAY,    'Safari',  'Los Angeles'),
    (38,  7, 'dashboard',        NOW() - INTERVAL   2 DAY,    'Safari',  'Los Angeles'),

    -- Isabella: the right pages, recently, but still on trial.
    (39, 13, 'pricing',          NOW() - INTERVAL   4 HOUR,   'Firefox', 'Atlanta'),
    (40, 13, 'settings',         NOW() - INTERVAL   3 DAY,    'Firefox', 'Atlanta');
