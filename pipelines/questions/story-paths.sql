-- Most common paths through each episode of a story: viewings that took it, and how many reached an end.
-- dates: user_stream
SELECT episode_id, path, count(*) AS viewings,
    round(count(*) / sum(count(*)) OVER (PARTITION BY episode_id), 4) AS share,
    count(*) FILTER (completed) AS completed,
    count(DISTINCT viewer) AS viewers
FROM story_episodes
WHERE session_start::DATE BETWEEN DATE '$since' AND DATE '$until' AND nodes_decided > 0
GROUP BY episode_id, path
ORDER BY episode_id, viewings DESC, path
