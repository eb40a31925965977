-- A date.
--
-- A trial ends at a moment, a birthday is a day. A moment is sent in UTC: the database reports it
-- in `DB_TIME_ZONE`. A day has no zone and stays what it is. `:date` sends text as a date. A row is
-- refused if its value is no date, such as `0000-00-00`. If `0000-00-00` stands for "no date" in
-- your table, turn it into NULL, which is left out. With `:string` the text itself is sent.
--
-- Settings:
--     DB_TIME_ZONE=+02:00

CREATE TABLE members (
    id INT PRIMARY KEY,
    email VARCHAR(255),
    name VARCHAR(100),
    born DATE,
    trial_ends DATETIME,
    renewed VARCHAR(10),
    paused DATE
);
CREATE TABLE sessions (id INT PRIMARY KEY, member_id INT, screen VARCHAR(50), opened DATETIME);
INSERT INTO members VALUES
    (1, 'lin@example.com', 'Lin', '1990-02-28', '2026-02-01 00:30:00', '2025-12-24',
    '2025-08-01');
INSERT INTO sessions VALUES (5, 1, 'billing', '2026-01-13 16:30:45');

-- Query 2: what is sent
--
-- The profile gets of it:
--     {"first_name": "Lin", "plan_type": "trial", "birthday": "1990-02-28",
--      "trial_ends": "2026-01-31 22:30:00 +00:00", "renewed": "2025-12-24",
--      "paused": "2025-08-01"}
-- The event gets of it:
--     {"page": "billing", "timestamp": "2026-01-13 16:30:45"}
SELECT
    m.id AS customer_id,
    m.email,
    m.name AS first_name,
    'trial' AS plan_type,
    s.id AS page_view_id,
    s.screen AS page,
    s.opened AS event_time,
    NULL AS browser,
    NULL AS location,
    m.born AS `user.birthday`,
    m.trial_ends AS `user.trial_ends`,
    m.renewed AS `user.renewed:date`,
    IF(m.paused > '0001-01-01', m.paused, NULL) AS `user.paused`
FROM sessions AS s
JOIN members AS m ON m.id = s.member_id;
