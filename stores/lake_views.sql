-- Views for analysts over the facts and dimensions. docs/identity.md describes their use.

-- The events with their page key, including events stored before that column existed.
CREATE VIEW events_keyed AS
SELECT * REPLACE (coalesce(page_key, page_key(page_url)) AS page_key) FROM fact_events;

-- The sessions, each with its user according to the current dim_devices: what the next stitch will write.
CREATE VIEW sessions_resolved AS
WITH persons AS (
    SELECT user_key, min(identity_key) AS identity_key
    FROM (SELECT unnest(string_split(user_keys, ',')) AS user_key, identity_key FROM dim_devices)
    WHERE identity_key IS NOT NULL
    GROUP BY user_key
), owned AS (
    SELECT s.*, CASE
        WHEN s.user_key IS NOT NULL THEN s.user_key
        -- a device that has not been stitched yet gets the default lookback of stitch
        WHEN d.stitched_user_key IS NULL AND s.session_start < d.first_login_at - INTERVAL 30 DAY THEN NULL
        WHEN s.session_start < d.stitched_from THEN NULL
        ELSE d.resolved_user_key
    END AS owner_user_key
    FROM fact_sessions s LEFT JOIN dim_devices d USING (device_id)
)
SELECT
    owned.* REPLACE (
        coalesce(entry_page_key, page_key(entry_page)) AS entry_page_key,
        coalesce(exit_page_key, page_key(exit_page)) AS exit_page_key
    ),
    coalesce(persons.identity_key, owner_user_key) AS person_key
FROM owned LEFT JOIN persons ON persons.user_key = owner_user_key;

-- A person's sessions across all devices, numbered in order.
CREATE VIEW journeys AS
SELECT
    person_key,
    row_number() OVER person AS step,
    step = 1 AS is_first_touch,
    row_number() OVER (PARTITION BY person_key ORDER BY session_start DESC, session_id DESC) = 1 AS is_last_touch,
    session_id, device_id, device_type, session_start, session_end, start_date, event_count, entry_page, exit_page,
    had_purchase, revenue, owner_user_key, user_key IS NOT NULL AS logged_in,
    lag(device_id) OVER person IS DISTINCT FROM device_id AND step > 1 AS device_changed
FROM sessions_resolved
WHERE person_key IS NOT NULL
WINDOW person AS (PARTITION BY person_key ORDER BY session_start, session_id);

-- Each session with a purchase, joined with the person's sessions up to and including it: attribution(window_days := 7).
-- The credits of a purchase add up to 1 in each model.
CREATE MACRO attribution(window_days := 30) AS TABLE
SELECT
    p.person_key,
    p.session_id AS purchase_session_id, p.session_start AS purchase_start, p.device_id AS purchase_device_id,
    p.device_type AS purchase_device_type, p.revenue,
    t.session_id AS touch_session_id, t.session_start AS touch_start, t.device_id AS touch_device_id,
    t.device_type AS touch_device_type,
    CASE WHEN row_number() OVER touches = 1 THEN 1.0 ELSE 0.0 END AS first_touch,
    CASE WHEN t.session_id = p.session_id THEN 1.0 ELSE 0.0 END AS last_touch,
    1.0::DOUBLE / count(*) OVER (PARTITION BY p.session_id) AS linear
FROM journeys p JOIN journeys t
    ON t.person_key = p.person_key AND t.step <= p.step
    AND t.session_start >= p.session_start - to_days(window_days::INTEGER)
WHERE p.had_purchase
WINDOW touches AS (PARTITION BY p.session_id ORDER BY t.step);
