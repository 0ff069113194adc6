#!/usr/bin/env bash
# The main job with the embedded defaults: generate a week of a shop's clicks, replay them, query both stores.
set -euo pipefail
work=${1:-demo-data}
export CLICKSTREAM_LAKE="$work/lake" CLICKSTREAM_DEVICES="rocksdb:$work/devices"
show() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

rm -rf "$work/events"
show clickstream generate --events 200k --out "$work/events"
show clickstream run --input "$work/events/*.jsonl"
show clickstream sql "
  SELECT start_date, count(*) AS sessions, count(*) FILTER (had_purchase) AS converting,
         round(100.0 * converting / sessions, 1) AS percent,
         round(avg(event_count), 1) AS events_each, CAST(sum(revenue) AS DECIMAL(12, 2)) AS revenue
  FROM fact_sessions GROUP BY start_date ORDER BY start_date"
read -r device until < <(clickstream sql --csv "
  SELECT device_id, strftime(max(session_end) + INTERVAL 1 second, '%Y-%m-%dT%H:%M:%SZ')
  FROM fact_sessions WHERE had_purchase GROUP BY device_id ORDER BY max(session_end) DESC LIMIT 1" | tail -1 | tr ',' ' ')
show clickstream recent "$device" --until "$until" --minutes 60 --limit 12
