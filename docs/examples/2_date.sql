-- A date.
--
-- A trial ends at a moment, a birthday is a day. A moment is sent in UTC: the database reports it
-- in `DB_TIME_ZONE`. A day has no zone and stays what it is. Where dates are kept as text, `:date`
-- makes dates of them, and a row whose text is no date is refused by itself.
--
-- Settings:
--     DB_TIME_ZONE=+02:00

CREATE TABLE members (
    id INT PRIMARY KEY,
    email VARCHAR(255),
    name VARCHAR(100),
    born DATE,
    trial_ends DATETIME,
    renewed VARCHAR(10)
);
CREATE TABLE sessions (id INT PRIMARY KEY, member_id INT, screen VARCHAR(50), opened DATETIME);
INSERT INTO members VALUES
    (1, 'lin@example.com', 'Lin', '1990-02-28', '2026-02-01 00:30:00', '2025-12-24');
INSERT INTO sessions VALUES (5, 1, 'billing', '2026-01-13 16:30:45');

-- Query 2: what is sent
--
-- The profile gets:
--     {"first_name": "Lin", "plan_type": "trial", "recent_page_view": true, "candidate": "yes",
--      "birthday": "1990-02-28", "trial_ends": "2026-01-31 22:30:00 +00:00",
--      "renewed": "2025-12-24"}
-- The event gets:
--     {"page": "billing", "timestamp": "2026-01-13 16:30:45", "candidate": "yes"}
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
    m.renewed AS `user.renewed:date`
FROM sessions AS s
JOIN members AS m ON m.id = s.member_id;
