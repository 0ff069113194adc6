#!/usr/bin/env bash
# The main job on a live topic, with a real broker, a producer and Flink; shows its progress while it runs.
set -euo pipefail
work=${1:-demo-live-data} seconds=${2:-90}
export CLICKSTREAM_LAKE="$work/lake" CLICKSTREAM_DEVICES="rocksdb:$work/devices" XDG_STATE_HOME="$PWD/$work/state"
show() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

rm -rf "$work"
mkdir -p "$work"
show clickstream services up kafka
trap 'clickstream services down kafka' EXIT
kafka=$(clickstream services status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["kafka"]["bootstrap"])')
clickstream produce --kafka "$kafka" --topic clicks --generate 1 --now > "$work/producer.log"
printf '\n\033[1m$ clickstream produce --kafka %s --topic clicks --generate 10M --now --rate 2000 &\033[0m\n' "$kafka"
clickstream produce --kafka "$kafka" --topic clicks --generate 10M --now --rate 2000 >> "$work/producer.log" &
producer=$!
trap 'kill -INT $producer 2>/dev/null || true; clickstream services down kafka' EXIT

# A gap of seconds instead of the default 30 minutes, so that sessions end during the demo
show timeout --foreground -s INT "$seconds" clickstream run --kafka "$kafka" --topic clicks --runner flink \
  --archive "$work/raw" --checkpoints "$work/checkpoints" \
  --session-gap 20s --allowed-lateness 20s --early-firing 10s --max-disorder 2s || [ $? -eq 124 ]
show clickstream sql "
  SELECT pane_timing, count(*) AS sessions, round(avg(event_count), 1) AS events_each
  FROM fact_sessions GROUP BY pane_timing ORDER BY pane_timing"
read -r device < <(clickstream sql --csv "SELECT device_id FROM fact_events ORDER BY event_time DESC LIMIT 1" | tail -1)
show clickstream recent "$device" --minutes 5 --limit 5
