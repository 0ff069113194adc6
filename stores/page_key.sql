-- Macros that map a URL to its page (docs/identity.md), used by transforms/events/pages.py and in queries.
-- trim goes through a text character by character: it is called only where it would change something.
CREATE TEMP MACRO page_trimmed(url) AS
    CASE WHEN contains(url, ' ') OR contains(url, e'\t') OR contains(url, e'\r') OR contains(url, e'\n')
        THEN trim(url, e' \t\r\n') ELSE url END;
CREATE TEMP MACRO page_bare(url) AS split_part(split_part(nullif(page_trimmed(url), ''), '#', 1), '?', 1);
CREATE TEMP MACRO page_host(bare) AS
    regexp_replace(regexp_replace(
        lower(regexp_extract(bare, '^(?:[A-Za-z][A-Za-z0-9+.-]*:)?//([^/]*)', 1)), '^.*@', ''
    ), ':(80|443)?$', '');
CREATE TEMP MACRO page_single_slashes(path) AS
    CASE WHEN contains(path, '//') THEN regexp_replace(path, '/{2,}', '/', 'g') ELSE path END;
CREATE TEMP MACRO page_closed(path) AS CASE WHEN ends_with(path, '/') THEN rtrim(path, '/') ELSE path END;
CREATE TEMP MACRO page_rooted(path) AS CASE WHEN starts_with(path, '/') THEN path ELSE '/' || path END;
CREATE TEMP MACRO page_path(bare) AS page_rooted(page_closed(page_single_slashes(
    regexp_replace(bare, '^(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/]*', '')
)));
-- As a subquery it is computed once per distinct URL
CREATE TEMP MACRO page_key(url) AS (SELECT md5(page_host(bare) || page_path(bare)) FROM (SELECT page_bare(url) AS bare));
