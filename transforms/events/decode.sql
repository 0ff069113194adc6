-- One output row per row of `given`: the columns of an event; and reason and field, which are null for a valid event.
-- $$1 is the time at which the batch is decoded. The other names with a dollar sign are constants that
-- transforms/events/envelope.py inserts.
-- Times are microseconds since 1970, UTC.
WITH parsed AS (
  SELECT *,
    from_json(json, $structure) AS e,
    json_type(json, $paths) AS types,       -- per envelope key: SQL NULL if missing, 'NULL' if null
    len(json_keys(json)) AS key_count
  FROM (SELECT *, CASE WHEN json_valid(payload) THEN payload END AS json FROM given)
), typed AS (
  SELECT * EXCLUDE (e), unnest(e),
    from_json(e.context, $context_structure) AS c,
    key_count <> list_count(types) AS unusual
  FROM parsed
), placed AS (
  SELECT *,
    nullif(coalesce(nullif(device_id, ''), c.device_id), '') AS device,
    nullif(coalesce(nullif(user_id, ''), nullif(c.user_id, ''),
                    CASE WHEN entity_type = 'user' THEN entity_id END), '') AS known_user,
    coalesce(arrival_time - (sent_time - client_time), client_time) AS event_time,
    coalesce(arrival_time, CAST($$1 AS BIGINT)) AS met_at
  FROM (SELECT *, $client_time AS client_time, $sent_time AS sent_time FROM typed)
), judged AS (
  SELECT *, $verdict AS verdict FROM placed
)
SELECT
  event_id, event_type, event_time, client_time, sent_time AS sent_at, arrival_time,
  device AS device_id, known_user AS user_id, entity_id, entity_type, session_id AS tracker_session_id,
  CASE WHEN contains(properties, '"page_url"') THEN properties ->> '$$.page_url' END AS page_url,
  CASE WHEN event_type = 'purchase' THEN
    coalesce(TRY_CAST(properties ->> '$$.revenue' AS DECIMAL(18, 4)),
             TRY_CAST(properties ->> '$$.amount' AS DECIMAL(18, 4))) END AS revenue,
  c.country, c.device_type, c.os, c.app_version,
  properties, context,
  CASE WHEN unusual AND verdict IS NULL THEN json_merge_patch(json, $without_envelope) END AS extra_properties,
  source, partition, "offset", row,
  verdict[1] AS reason, verdict[2] AS field
FROM judged
