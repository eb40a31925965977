-- A boolean.
--
-- A column declared `BOOLEAN` is `TINYINT` to the database, which can be a number as well. So it
-- needs `:boolean`, or the run exits with status 2 and sends nothing; `BIT` needs it too. An
-- expression is a whole number to the database: with `:boolean` it is sent as a boolean. The first
-- value sets a field's type permanently: look at the table of `--dry-run` before you send a row.

CREATE TABLE readers (
    id INT PRIMARY KEY,
    email VARCHAR(255),
    name VARCHAR(100),
    newsletter BOOLEAN NOT NULL,
    active BIT(1) NOT NULL,
    books INT
);
CREATE TABLE reading (
    id INT PRIMARY KEY,
    reader_id INT,
    chapter VARCHAR(50),
    read_at DATETIME,
    finished BOOLEAN
);
INSERT INTO readers VALUES (3, 'sam@example.com', 'Sam', TRUE, b'1', 12);
INSERT INTO reading VALUES (8, 3, 'ten', '2026-01-13 14:30:45', FALSE);

-- Query 2: what is sent
--
-- The profile gets of it:
--     {"first_name": "Sam", "plan_type": "reader", "newsletter": true, "active": true, "keen": true}
-- The event gets of it:
--     {"page": "ten", "timestamp": "2026-01-13 14:30:45", "finished": false}
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
    r.newsletter AS `user.newsletter:boolean`,
    r.active AS `user.active:boolean`,
    r.books > 10 AS `user.keen:boolean`,
    d.finished AS `event.finished:boolean`
FROM reading AS d
JOIN readers AS r ON r.id = d.reader_id;
