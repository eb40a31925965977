-- A number.
--
-- A shop wants to know what a customer has spent and how often, and sends what was looked at with
-- its price. `DECIMAL` is sent as a `double`, `COUNT(*)` as a `long`. `SUM(quantity)` is `DECIMAL`
-- to the database: `:long` sends it as a whole number. A `TINYINT` column always needs a suffix,
-- because it can be a number or a boolean.

CREATE TABLE shoppers (
    id INT PRIMARY KEY,
    mail VARCHAR(255),
    forename VARCHAR(100),
    tier VARCHAR(20),
    lifetime_value DECIMAL(12, 2),
    stars TINYINT
);
CREATE TABLE purchases (shopper_id INT, quantity INT);
CREATE TABLE product_views (
    id INT PRIMARY KEY,
    shopper_id INT,
    product VARCHAR(100),
    price DECIMAL(8, 2),
    seen_at DATETIME
);
INSERT INTO shoppers VALUES (7, 'ada@example.com', 'Ada', 'gold', 1250.50, 4);
INSERT INTO purchases VALUES (7, 2), (7, 3);
INSERT INTO product_views VALUES (31, 7, 'desk lamp', 39.00, '2026-01-13 14:30:45');

-- Query 2: what is sent
--
-- The profile gets of it:
--     {"first_name": "Ada", "plan_type": "gold", "lifetime_value": 1250.5,
--      "purchases": 2, "items": 5, "stars": 4}
-- The event gets of it:
--     {"page": "desk lamp", "timestamp": "2026-01-13 14:30:45", "price": 39.0}
SELECT
    s.id AS customer_id,
    s.mail AS email,
    s.forename AS first_name,
    s.tier AS plan_type,
    v.id AS page_view_id,
    v.product AS page,
    v.seen_at AS event_time,
    NULL AS browser,
    NULL AS location,
    s.lifetime_value AS `user.lifetime_value`,
    (SELECT COUNT(*) FROM purchases AS p WHERE p.shopper_id = s.id) AS `user.purchases`,
    (SELECT SUM(p.quantity) FROM purchases AS p WHERE p.shopper_id = s.id) AS `user.items:long`,
    s.stars AS `user.stars:long`,
    v.price AS `event.price`
FROM product_views AS v
JOIN shoppers AS s ON s.id = v.shopper_id;
