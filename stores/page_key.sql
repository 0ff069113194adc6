-- The key of a URL's page in dim_pages: the rule of transforms/events/pages.py for a query; a test holds the two equal.
CREATE MACRO page_url(url) AS (
    WITH bare AS (SELECT split_part(split_part(trim(url, e' \t\r\n'), '#', 1), '?', 1) AS given),
    parts AS (
        SELECT
            regexp_replace(regexp_replace(lower(
                regexp_extract(given, '^(?:[A-Za-z][A-Za-z0-9+.-]*:)?//([^/]*)', 1)
            ), '^.*@', ''), ':(80|443)?$', '') AS host,
            regexp_replace(regexp_replace(
                given, '^(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/]*', ''
            ), '/{2,}', '/', 'g') AS path
        FROM bare
    )
    SELECT host || '/' || trim(path, '/') FROM parts
);
CREATE MACRO page_key(url) AS CASE WHEN trim(url, e' \t\r\n') <> '' THEN md5(page_url(url)) END;
