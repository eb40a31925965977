-- User ids.
--
-- A project keyed by user id, as Iterable's European data centre has them, or a hybrid one. Each
-- call then names the user by `userId`, and `email` may be NULL: it is not sent. These ids are
-- `BINARY(16)`, which is no text: MySQL has `BIN_TO_UUID()` for them, and `HEX()` works everywhere.
--
-- Settings:
--     ITERABLE_IDENTITY=user_id

CREATE TABLE accounts (id BINARY(16) PRIMARY KEY, nickname VARCHAR(50), plan VARCHAR(20));
CREATE TABLE hits (id INT PRIMARY KEY, account_id BINARY(16), path VARCHAR(100), at DATETIME);
INSERT INTO accounts VALUES (0x00112233445566778899AABBCCDDEEFF, 'kim', 'team');
INSERT INTO hits VALUES (64, 0x00112233445566778899AABBCCDDEEFF, '/docs', '2026-01-13 14:30:45');

-- Query 2: what is sent
--
-- The profile gets of it:
--     {"first_name": "kim", "plan_type": "team"}
-- The event gets of it:
--     {"page": "/docs", "timestamp": "2026-01-13 14:30:45"}
SELECT
    HEX(a.id) AS customer_id,
    LOWER(HEX(a.id)) AS user_id,
    NULL AS email,
    a.nickname AS first_name,
    a.plan AS plan_type,
    h.id AS page_view_id,
    h.path AS page,
    h.at AS event_time,
    NULL AS browser,
    NULL AS location
FROM hits AS h
JOIN accounts AS a ON a.id = h.account_id;
