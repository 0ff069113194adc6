-- Average duration of users' first-visit sessions, by day.
SELECT start_date AS day,
    count(*) AS first_visits,
    round(avg(duration_secs), 3) AS avg_session_secs
FROM dim_sessions
WHERE session_id = 1 AND start_date BETWEEN DATE '$since' AND DATE '$until'
GROUP BY ALL
ORDER BY day
