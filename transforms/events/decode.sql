-- One output row per row of `given`, which has the members of the envelope as text, their kinds, and the arrival time:
-- when and whose the event is; and reason and field, which are null for a valid event.
-- $$1 is the time at which the batch is decoded. The other names with a dollar sign are constants that
-- transforms/events/envelope.py inserts.
-- Times are microseconds since 1970, UTC.
WITH placed AS (
  SELECT *,
    nullif(coalesce(nullif(device_id, ''), context_device_id), '') AS device,
    nullif(coalesce(nullif(user_id, ''), nullif(context_user_id, ''),
                    CASE WHEN entity_type = 'user' THEN entity_id END), '') AS known_user,
    coalesce(arrival_time - (sent_time - client_time), client_time) AS event_time,
    coalesce(arrival_time, CAST($$1 AS BIGINT)) AS met_at
  FROM (SELECT *, $client_time AS client_time, $sent_time AS sent_time FROM given)
), judged AS (
  SELECT *, $verdict AS verdict FROM placed
)
SELECT
  event_time, client_time, sent_time AS sent_at, device AS device_id, known_user AS user_id,
  CASE WHEN event_type = 'purchase' THEN
    coalesce(TRY_CAST(revenue AS DECIMAL(18, 4)), TRY_CAST(amount AS DECIMAL(18, 4))) END AS revenue,
  verdict[1] AS reason, verdict[2] AS field
FROM judged
