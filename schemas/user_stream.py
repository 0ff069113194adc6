"""The activity stream: one narrow table of all customer activities, after the Activity Schema specification 2.0."""

import pyarrow as pa

from schemas.records import MONEY, TIMESTAMP, Field, Record

USER_STREAM = Record(
    name="user_stream",
    grain="one activity: a unique event that its type's declaration in the catalogue accepts",
    fields=(
        Field("activity_id", pa.string(), "hash of device_id and event_id, 32 hexadecimal digits", nullable=False),
        Field("ts", TIMESTAMP, "event_time", nullable=False),
        Field("customer", pa.string(), "user_key; null while anonymous, until stitching fills it in"),
        Field("activity", pa.string(), "event_type", nullable=False),
        Field("anonymous_customer_id", pa.string(), "device_id", nullable=False),
        Field("feature_1", pa.string(), "the property that the catalogue names for this activity, as text"),
        Field("feature_2", pa.string(), "as feature_1"),
        Field("feature_3", pa.string(), "as feature_1"),
        Field(
            "feature_json",
            pa.string(),
            "the declared properties as received, JSON text; all properties for an undeclared type",
        ),
        Field("revenue_impact", MONEY, "the revenue of the activity; major currency units"),
        Field("link", pa.string(), "where it happened: the property that the catalogue names, usually page_url"),
        Field("customer_is_stitched", pa.bool_(), "whether stitching filled customer in", nullable=False),
        Field("date", pa.date32(), "UTC date of ts", nullable=False),
    ),
    partition_by=("date",),
    sort_by=("customer", "activity", "ts"),
    key=("activity_id",),
)
"""The stored table."""

COMPUTED = (
    Field(
        "activity_occurrence", pa.int64(), "1, 2, 3 … among the customer's occurrences of this activity", nullable=False
    ),
    Field("activity_repeated_at", TIMESTAMP, "ts of the next occurrence; null if there is none"),
)
"""Columns that the view `user_stream` of a query adds. They depend on a customer's whole history: if they were stored,
one late event could change any number of old rows."""
