-- Macros that map a URL to its page (docs/identity.md), used by transforms/events/pages.py and in queries.
CREATE MACRO page_bare(url) AS
    CASE WHEN trim(url, e' \t\r\n') <> '' THEN split_part(split_part(trim(url, e' \t\r\n'), '#', 1), '?', 1) END;
CREATE MACRO page_host(bare) AS
    regexp_replace(regexp_replace(
        lower(regexp_extract(bare, '^(?:[A-Za-z][A-Za-z0-9+.-]*:)?//([^/]*)', 1)), '^.*@', ''
    ), ':(80|443)?$', '');
CREATE MACRO page_path(bare) AS
    '/' || trim(regexp_replace(regexp_replace(
        bare, '^(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/]*', ''
    ), '/{2,}', '/', 'g'), '/');
-- As a subquery it is computed once per distinct URL
CREATE MACRO page_key(url) AS (SELECT md5(page_host(bare) || page_path(bare)) FROM (SELECT page_bare(url) AS bare));
