-- People who left.
--
-- Everyone who ever was pro is sent, and the query says who still is. A row whose `page_view_id` is
-- NULL has no event: only its profile goes. The column `user.recent_page_view` takes the place of
-- the field that is otherwise always true. Only changes are sent: the night after somebody leaves
-- sends one `false`, and nothing else.

CREATE TABLE subscribers (
    id INT PRIMARY KEY,
    email VARCHAR(255),
    name VARCHAR(100),
    plan VARCHAR(20),
    first_pro_on DATE
);
CREATE TABLE screens (id INT PRIMARY KEY, subscriber_id INT, name VARCHAR(50), seen_at DATETIME);
INSERT INTO subscribers VALUES
    (1, 'eva@example.com', 'Eva', 'pro', '2025-03-01'),
    (2, 'tom@example.com', 'Tom', 'basic', '2025-06-01'),
    (3, 'una@example.com', 'Una', 'basic', NULL);
INSERT INTO screens VALUES
    (51, 1, 'pricing', UTC_DATE() - INTERVAL 10 DAY),
    (52, 1, 'settings', UTC_DATE() - INTERVAL 1 DAY),
    (53, 2, 'pricing', UTC_DATE() - INTERVAL 1 DAY);

-- Query 2: what is sent
--
-- The profiles get of it:
--     {"first_name": "Eva", "plan_type": "pro", "recent_page_view": true}
--     {"first_name": "Tom", "plan_type": "basic", "recent_page_view": false}
-- The event gets of it:
--     {"page": "settings", "timestamp": "<yesterday> 00:00:00"}
WITH recent AS (
    SELECT
        id,
        subscriber_id,
        name,
        seen_at,
        ROW_NUMBER() OVER (PARTITION BY subscriber_id ORDER BY seen_at DESC, id DESC) AS place
    FROM screens
    WHERE seen_at >= CURDATE() - INTERVAL 7 DAY
)
SELECT
    s.id AS customer_id,
    s.email,
    s.name AS first_name,
    s.plan AS plan_type,
    r.id AS page_view_id,
    r.name AS page,
    r.seen_at AS event_time,
    NULL AS browser,
    NULL AS location,
    r.id IS NOT NULL AS `user.recent_page_view`
FROM subscribers AS s
LEFT JOIN recent AS r ON r.subscriber_id = s.id AND r.place = 1 AND s.plan = 'pro'
WHERE s.first_pro_on IS NOT NULL
ORDER BY s.id;
