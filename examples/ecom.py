"""Convert the shop events of retentioneering-tools into the envelope that the pipeline reads.

    python examples/ecom.py ecom.csv.gz ecom.jsonl

The input has one row per event: user_id, timestamp, event, session_id, platform, acquisition_channel,
user_cohort, user_lifecycle. Its session_id is the expected result of the pipeline, so it is not converted.
"""

import sys
from pathlib import Path

import polars as pl


def convert(source: Path, target: Path) -> int:
    """Write the rows of `source` (CSV, gzipped or not) as JSON lines to `target`; return their number.

    Times have no zone and are read as UTC. The id of an event is its content plus the number of equal rows before
    it, so that equal rows get different ids and the same file always gives the same ids.
    """
    rows = pl.read_csv(source, schema_overrides={"user_id": pl.String}, try_parse_dates=True)
    content = ["user_id", "timestamp", "event"]
    moment = pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
    ordinal = pl.int_range(pl.len()).over(content)
    envelopes = rows.select(
        event_id=pl.concat_str("user_id", moment, "event", ordinal, separator="/"),
        event_type="event",
        timestamp=moment,
        device_id="d_" + pl.col("user_id"),
        user_id="user_id",
        properties=pl.struct("acquisition_channel", "user_cohort", "user_lifecycle"),
        context=pl.struct(device_type="platform"),
    )
    envelopes.write_ndjson(target)
    return len(envelopes)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/ecom.py IN.csv.gz OUT.jsonl")
    print(f"{convert(Path(sys.argv[1]), Path(sys.argv[2]))} events")
