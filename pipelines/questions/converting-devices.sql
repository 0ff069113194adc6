-- Converting sessions by device path: the types of device, in order, that led to a session's first purchase.
-- A type that follows itself counts once; an event that does not say its device's type is passed over.
WITH placed AS (
    SELECT event_sessions.user_key, event_sessions.session_id, event_sessions.session_position, event_type, device_type
    FROM event_sessions JOIN fact_events USING (device_id, event_id, event_date)
    WHERE start_date BETWEEN DATE '$since' AND DATE '$until'
        AND event_date BETWEEN DATE '$since' - 1 AND DATE '$until' + 1
), bought AS (
    SELECT user_key, session_id, min(session_position) AS bought_at
    FROM placed
    WHERE event_type = 'purchase'
    GROUP BY ALL
), steps AS (
    SELECT user_key, session_id, session_position, device_type,
        lag(device_type) OVER (PARTITION BY user_key, session_id ORDER BY session_position) AS prior
    FROM placed JOIN bought USING (user_key, session_id)
    WHERE session_position <= bought_at AND device_type IS NOT NULL
), paths AS (
    SELECT user_key, session_id, string_agg(device_type, ' > ' ORDER BY session_position) AS device_path
    FROM steps
    WHERE prior IS DISTINCT FROM device_type
    GROUP BY ALL
)
SELECT coalesce(device_path, 'unknown') AS device_path,
    count(*) AS converting_sessions,
    sum(revenue) AS revenue
FROM bought
    JOIN dim_sessions USING (user_key, session_id)
    LEFT JOIN paths USING (user_key, session_id)
WHERE start_date BETWEEN DATE '$since' AND DATE '$until'
GROUP BY ALL
ORDER BY converting_sessions DESC, device_path
