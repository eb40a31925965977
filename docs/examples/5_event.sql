-- Another event.
--
-- An order in place of a page view: the column `event_name` says what happened, row by row. A
-- basket is JSON. MySQL says of a column that it is JSON, MariaDB does not: `:json` is right on
-- both.
--
-- The event's id is made from `page_view_id`, `customer_id`, `event_time` and the event's name: an
-- order that changes from placed to paid is another event, and one that is sent twice is not.

CREATE TABLE buyers (id INT PRIMARY KEY, email VARCHAR(255), name VARCHAR(100));
CREATE TABLE orders (
    id INT PRIMARY KEY,
    buyer_id INT,
    total DECIMAL(10, 2),
    paid BOOLEAN,
    basket JSON,
    placed DATETIME
);
INSERT INTO buyers VALUES (9, 'joe@example.com', 'Joe');
INSERT INTO orders VALUES
    (77, 9, 60.00, TRUE, '[{"sku": "A-1", "count": 2}]', '2026-01-13 14:30:45');

-- Query 2: what is sent
--
-- The profile gets of it:
--     {"first_name": "Joe"}
-- The event gets of it:
--     {"page": "checkout", "timestamp": "2026-01-13 14:30:45", "total": 60.0,
--      "basket": [{"sku": "A-1", "count": 2}]}
SELECT
    b.id AS customer_id,
    b.email,
    b.name AS first_name,
    NULL AS plan_type,
    o.id AS page_view_id,
    'checkout' AS page,
    o.placed AS event_time,
    NULL AS browser,
    NULL AS location,
    IF(o.paid, 'order_paid', 'order_placed') AS event_name,
    o.total AS `event.total`,
    o.basket AS `event.basket:json`
FROM orders AS o
JOIN buyers AS b ON b.id = o.buyer_id;
