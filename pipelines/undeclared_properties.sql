-- Event properties that the catalogue does not declare, most common first; percent is of the events of their type.
WITH events AS (
    SELECT event_type, count(*) AS of_type FROM events_wide GROUP BY event_type
), extra AS (
    SELECT event_type, extra_properties, unnest(json_keys(extra_properties)) AS property
    FROM events_wide WHERE extra_properties IS NOT NULL
), typed AS (
    SELECT event_type, property,
        json_extract(extra_properties, '/' || replace(replace(property, '~', '~0'), '/', '~1')) AS value,
        CASE json_type(value)
            WHEN 'VARCHAR' THEN 'string' WHEN 'UBIGINT' THEN 'integer' WHEN 'BIGINT' THEN 'integer'
            WHEN 'DOUBLE' THEN 'number' WHEN 'BOOLEAN' THEN 'boolean' WHEN 'NULL' THEN NULL ELSE 'json'
        END AS type
    FROM extra
)
SELECT
    event_type,
    event_type NOT IN (SELECT event_type FROM silver.other) AS type_is_declared,
    property,
    count(*) AS events,
    round(100.0 * count(*) / any_value(of_type), 1) AS percent,
    CASE
        WHEN count(DISTINCT type) = 1 THEN any_value(type)
        WHEN bool_and(type IN ('integer', 'number')) THEN 'number'
        WHEN count(type) > 0 THEN 'json'
    END AS would_be,
    min(CAST(value AS VARCHAR)) AS example
FROM typed JOIN events USING (event_type)
GROUP BY event_type, property
ORDER BY percent DESC, events DESC, event_type, property
