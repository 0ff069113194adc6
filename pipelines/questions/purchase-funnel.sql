-- Purchase funnel by session and day: how many sessions viewed a page or a product, then filled a cart, then bought.
-- Each step counts only after the one before it. converting_sessions are those with a purchase, whatever preceded it.
WITH placed AS (
    SELECT start_date, event_sessions.user_key, event_sessions.session_id, event_sessions.session_position, event_type,
        min(event_sessions.session_position) FILTER (event_type IN ('page_view', 'product_view')) OVER session AS viewed_at
    FROM event_sessions JOIN fact_events USING (device_id, event_id, event_date)
    WHERE start_date BETWEEN DATE '$since' AND DATE '$until'
        AND event_date BETWEEN DATE '$since' - 1 AND DATE '$until' + 1
    WINDOW session AS (PARTITION BY event_sessions.user_key, event_sessions.session_id)
), carted AS (
    SELECT *, min(session_position) FILTER (event_type = 'add_to_cart' AND session_position > viewed_at)
        OVER (PARTITION BY user_key, session_id) AS carted_at
    FROM placed
), sessions AS (
    SELECT start_date, user_key, session_id,
        count(*) AS events,
        any_value(viewed_at) IS NOT NULL AS viewed,
        any_value(carted_at) IS NOT NULL AS carted,
        coalesce(bool_or(event_type = 'purchase' AND session_position > carted_at), false) AS bought,
        bool_or(event_type = 'purchase') AS converted
    FROM carted
    GROUP BY ALL
)
SELECT start_date AS day,
    count(*) AS sessions,
    count(*) FILTER (viewed) AS viewed,
    count(*) FILTER (carted) AS carted,
    count(*) FILTER (bought) AS bought,
    count(*) FILTER (converted) AS converting_sessions,
    round(avg(events), 3) AS avg_events
FROM sessions
GROUP BY ALL
ORDER BY day
