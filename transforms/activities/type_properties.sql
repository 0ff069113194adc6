-- For each row of `given`: the typed properties of an event of one type, and the first property that is wrong.
-- transforms/activities/property_types.py substitutes the names with a dollar sign from the type's declaration. If a key
-- occurs twice, its first value counts.
WITH parsed AS (
  SELECT properties,
    from_json(properties, $structure) AS e,
    json_type(properties, $pointers) AS types,    -- per property: SQL NULL if missing, 'NULL' if null
    len(json_keys(properties)) AS key_count
  FROM given
), typed AS (
  SELECT properties, types, key_count > list_count(types) AS has_more, $values FROM parsed
)
SELECT $columns,
  CASE $faults END AS fault,
  CASE WHEN has_more THEN nullif(json_merge_patch(properties, $without_declared), '{}') END AS extra_properties,
  CASE WHEN has_more THEN '{' || coalesce(array_to_string(
    list_transform(list_zip($keys, json_extract(properties, $pointers)), lambda item: item[1] || ':' || item[2]), ','
  ), '') || '}' END AS declared_properties
FROM typed
