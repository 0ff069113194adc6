-- Average session duration a user a day: seconds in sessions on a day, over the users who had any.
SELECT start_date AS day,
    count(DISTINCT user_key) AS users,
    round(sum(duration_secs) / count(DISTINCT user_key), 3) AS avg_session_secs
FROM dim_sessions
WHERE start_date BETWEEN DATE '$since' AND DATE '$until'
GROUP BY ALL
ORDER BY day
