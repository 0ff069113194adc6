-- Of those who chose an option at one decision of a story, the share that chose each option at a later one.
-- dates: user_stream
-- The unit is a viewing of an episode. Only its valid choices count, not those dropped by a rewind. share is relative to
-- the viewings that reached both decisions, share_of_all to all that made the first choice.
WITH chosen AS (
    SELECT device_id, session_start, episode_id, unnest(standing, recursive := true),
        generate_subscripts(standing, 1) AS place
    FROM story_episodes
    WHERE session_start::DATE BETWEEN DATE '$since' AND DATE '$until'
), totals AS (
    SELECT episode_id, node, option, count(*) AS chose FROM chosen GROUP BY ALL
), pairs AS (
    SELECT a.episode_id, a.node, a.option, b.node AS later_node, b.option AS later_option, count(*) AS then_chose
    FROM chosen a JOIN chosen b
        ON a.device_id = b.device_id AND a.session_start = b.session_start
        AND a.episode_id IS NOT DISTINCT FROM b.episode_id AND a.place < b.place
    GROUP BY ALL
)
SELECT pairs.episode_id, pairs.node, pairs.option, chose, later_node, later_option, then_chose,
    round(then_chose / sum(then_chose) OVER (
        PARTITION BY pairs.episode_id, pairs.node, pairs.option, later_node), 4) AS share,
    round(then_chose / chose, 4) AS share_of_all
FROM pairs JOIN totals
    ON pairs.node = totals.node AND pairs.option = totals.option
    AND pairs.episode_id IS NOT DISTINCT FROM totals.episode_id
ORDER BY ALL
