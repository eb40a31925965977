-- A truth value.
--
-- A column declared `BOOLEAN`, which is `TINYINT(1)`, is a boolean. An expression is a whole number
-- to the database, so it needs `:boolean`. Iterable keeps a field's first type for good: look at
-- the table of `--dry-run` before the first row leaves.

CREATE TABLE readers (
    id INT PRIMARY KEY,
    email VARCHAR(255),
    name VARCHAR(100),
    newsletter BOOLEAN NOT NULL,
    books INT
);
CREATE TABLE reading (
    id INT PRIMARY KEY,
    reader_id INT,
    chapter VARCHAR(50),
    read_at DATETIME,
    finished BOOLEAN
);
INSERT INTO readers VALUES (3, 'sam@example.com', 'Sam', TRUE, 12);
INSERT INTO reading VALUES (8, 3, 'ten', '2026-01-13 14:30:45', FALSE);

-- Query 2: what is sent
--
-- The profile gets:
--     {"first_name": "Sam", "plan_type": "reader", "recent_page_view": true,
--      "candidate": "yes", "newsletter": true, "keen": true}
-- The event gets:
--     {"page": "ten", "timestamp": "2026-01-13 14:30:45", "candidate": "yes",
--      "finished": false}
SELECT
    r.id AS customer_id,
    r.email,
    r.name AS first_name,
    'reader' AS plan_type,
    d.id AS page_view_id,
    d.chapter AS page,
    d.read_at AS event_time,
    NULL AS browser,
    NULL AS location,
    r.newsletter AS `user.newsletter`,
    r.books > 10 AS `user.keen:boolean`,
    d.finished AS `event.finished`
FROM reading AS d
JOIN readers AS r ON r.id = d.reader_id;
