-- The decisions of interactive stories, computed from user_stream alone (docs/activities.md).

-- The activities of stories, each with its viewer and viewing. A viewing is a session of a device: its activities of
-- any kind with no gap of more than 30 minutes. Its viewer is the last user seen in it, or else the device.
CREATE VIEW story_activities AS
WITH followed AS (
    SELECT *, lag(ts) OVER (PARTITION BY anonymous_customer_id ORDER BY ts, activity_id) AS ts_before
    FROM user_stream
    WHERE anonymous_customer_id IN (
        SELECT anonymous_customer_id FROM user_stream
        WHERE activity IN ('choice_presented', 'choice_selected', 'outcome_viewed', 'branch_completed', 'episode_end')
    )
), placed AS (
    SELECT *, max(CASE WHEN ts_before IS NULL OR ts - ts_before > INTERVAL 30 MINUTE THEN ts END) OVER (
        PARTITION BY anonymous_customer_id ORDER BY ts, activity_id ROWS UNBOUNDED PRECEDING
    ) AS session_start
    FROM followed
), viewed AS (
    SELECT *, coalesce(last_value(customer IGNORE NULLS) OVER (
        PARTITION BY anonymous_customer_id, session_start ORDER BY ts, activity_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
    ), anonymous_customer_id) AS viewer
    FROM placed
)
SELECT viewer, anonymous_customer_id AS device_id, session_start, feature_json ->> '$.episode_id' AS episode_id,
    ts, activity_id, activity, feature_1, feature_2, feature_3
FROM viewed
WHERE activity IN ('choice_presented', 'choice_selected', 'outcome_viewed', 'branch_completed', 'episode_end');

-- Each decision made in a viewing of an episode. After a rewind, the last choice at a node counts; times_chosen is the
-- number of choices made there.
CREATE VIEW story_choices AS
SELECT viewer, device_id, session_start, episode_id, feature_1 AS choice_node_id,
    last(feature_2 ORDER BY ts, activity_id) AS choice_option_id, last(feature_3 ORDER BY ts, activity_id) AS path_id,
    count(*) AS times_chosen, min(ts) AS first_chosen_at, max(ts) AS chosen_at
FROM story_activities
WHERE activity = 'choice_selected' AND feature_1 IS NOT NULL
GROUP BY viewer, device_id, session_start, episode_id, feature_1;

-- The accumulating snapshot: one row per viewer, session and episode. path lists the valid choices from the root: a new
-- choice at a node already on the path rewinds to that node and drops it and all later choices. standing is the same as
-- a list; choices holds the last choice at every node, including dropped ones.
CREATE VIEW story_episodes AS
WITH episodes AS (
    SELECT viewer, device_id, session_start, episode_id,
        min(ts) AS started_at, max(ts) AS last_activity_at,
        max(ts) FILTER (activity = 'episode_end') AS ended_at,
        last(feature_2 ORDER BY ts, activity_id) FILTER (activity = 'episode_end') AS ending_id,
        count(*) FILTER (activity = 'branch_completed') AS branches_completed,
        count(DISTINCT feature_1) FILTER (activity = 'choice_presented') AS nodes_presented,
        list([{'node': feature_1, 'option': coalesce(feature_2, '')}] ORDER BY ts, activity_id)
            FILTER (activity = 'choice_selected' AND feature_1 IS NOT NULL) AS steps
    FROM story_activities
    GROUP BY viewer, device_id, session_start, episode_id
), paths AS (
    SELECT *, list_reduce(coalesce(steps, []), lambda path, step: path[
        : coalesce(list_position(list_transform(path, lambda choice: choice.node), step[1].node), len(path) + 1) - 1
    ] || step, []) AS path
    FROM episodes
), decided AS (
    SELECT viewer, device_id, session_start, episode_id,
        count(*) AS nodes_decided, sum(times_chosen - 1)::BIGINT AS choices_changed,
        map(list(choice_node_id ORDER BY choice_node_id), list(choice_option_id ORDER BY choice_node_id)) AS choices
    FROM story_choices
    GROUP BY viewer, device_id, session_start, episode_id
)
SELECT s.viewer, s.device_id, s.session_start, s.episode_id, started_at, last_activity_at, ended_at,
    ended_at IS NOT NULL AS completed, ending_id, branches_completed, nodes_presented,
    coalesce(nodes_decided, 0) AS nodes_decided, coalesce(choices_changed, 0) AS choices_changed,
    array_to_string(list_transform(path, lambda choice: choice.node || '=' || choice.option), ' > ') AS path,
    path AS standing, coalesce(choices, MAP {}) AS choices
FROM paths AS s LEFT JOIN decided AS d
    ON s.viewer = d.viewer AND s.device_id = d.device_id AND s.session_start = d.session_start
    AND s.episode_id IS NOT DISTINCT FROM d.episode_id;
