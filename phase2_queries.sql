-- Phase 2: pro users with recent engagement.
--
--   mysql -u root -p < phase2_queries.sql
--
-- Three queries against the database that database_setup.sql makes. They only read.
--
-- main.py runs Query 2 from this very file, so what you change there changes what is delivered: put
-- LIMIT 1 before its semicolon, and one user is delivered. It finds the query by the line that begins
-- with its number. Keep that line, the names of the nine columns, and one statement under it.
--
-- In all three, "recent" is since midnight seven days ago, in the time zone of the session.

USE iterable_challenge;

-- Query 1: every qualifying page view, with its rank among the views of the same user
--
-- The latest view of a user has rank 1. Two views can be of the same instant: then the one written
-- last, which has the higher id, ranks first. Without that second key the server may pick either, and
-- not the same one tomorrow.
SELECT
    c.id AS customer_id,
    c.email,
    pv.id AS page_view_id,
    pv.page,
    pv.event_time,
    ROW_NUMBER() OVER (PARTITION BY pv.user_id ORDER BY pv.event_time DESC, pv.id DESC) AS view_rank
FROM page_views AS pv
JOIN customers AS c ON c.id = pv.user_id
WHERE c.plan_type = 'pro'
  AND pv.page IN ('pricing', 'settings')
  AND pv.event_time >= DATE_SUB(CURDATE(), INTERVAL 7 DAY)
ORDER BY customer_id, view_rank;

-- Query 2: the latest qualifying page view of each user, the most recent user first
--
-- Query 1 as a common table expression, cut to rank 1: one row for each user. This is what is
-- delivered to Iterable. The last line settles the order for good, so that LIMIT means the same rows
-- each time.
WITH ranked_views AS (
    SELECT
        c.id AS customer_id,
        c.email,
        c.first_name,
        c.plan_type,
        pv.id AS page_view_id,
        pv.page,
        pv.event_time,
        pv.browser,
        pv.location,
        ROW_NUMBER() OVER (PARTITION BY pv.user_id ORDER BY pv.event_time DESC, pv.id DESC) AS view_rank
    FROM page_views AS pv
    JOIN customers AS c ON c.id = pv.user_id
    WHERE c.plan_type = 'pro'
      AND pv.page IN ('pricing', 'settings')
      AND pv.event_time >= DATE_SUB(CURDATE(), INTERVAL 7 DAY)
)
SELECT customer_id, email, first_name, plan_type, page_view_id, page, event_time, browser, location
FROM ranked_views
WHERE view_rank = 1
ORDER BY event_time DESC, page_view_id DESC;

-- More columns: one that is named user.<field> goes into the profile, event.<field> into the event, with
-- the type of the column or of a suffix. README.md, "Query 2 is the mapping", has the types. In Query 2
-- this would stand behind pv.location, and the new names behind location in the last SELECT:
--
--     c.id > 3 AS `user.is_new:boolean`,
--     DATE(pv.event_time) AS `event.day`,

-- Query 3: the same views summed up by page
--
-- How often each page was seen, by how many users, and when first and last. The views add up to the
-- rows of Query 1. The users need not add up to those of Query 2: one may have seen both pages.
SELECT
    pv.page,
    COUNT(*) AS views,
    COUNT(DISTINCT pv.user_id) AS users,
    MIN(pv.event_time) AS first_view,
    MAX(pv.event_time) AS last_view
FROM page_views AS pv
JOIN customers AS c ON c.id = pv.user_id
WHERE c.plan_type = 'pro'
  AND pv.page IN ('pricing', 'settings')
  AND pv.event_time >= DATE_SUB(CURDATE(), INTERVAL 7 DAY)
GROUP BY pv.page
ORDER BY views DESC, pv.page;
