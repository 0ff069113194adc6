"""Where files lie: an object store that does not answer is an error within seconds."""

import pytest

from schemas.errors import StoreError
from stores import locations
from stores.lake import find_table
from stores.locations import check_reachable

NOWHERE = "scheme=http&endpoint_override=127.0.0.1:9"
"""On the port that is for discarding nobody listens."""


def test_bucket_out_of_reach_is_an_error_of_one_line_and_not_tried_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "PATIENCE_SECONDS", 1)
    uri = f"gs://anonymous@bucket/lake?{NOWHERE}"
    for attempt in (lambda: check_reachable(uri), lambda: find_table(uri, "fact_events")):
        with pytest.raises(StoreError, match=r"^gs://anonymous@bucket/lake.* cannot be reached") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_bucket_that_answered_or_refused_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Bucket:
        @classmethod
        def from_uri(cls, uri: str) -> tuple["Bucket", str]:
            return cls(), uri.partition("?")[0]

        def get_file_info(self, path: str) -> None:
            asked.append(path)
            if path.startswith("gs://closed"):
                raise PermissionError("google::cloud::Status(PERMISSION_DENIED: …")

    monkeypatch.setattr(locations, "FileSystem", Bucket)
    for uri in (
        "gs://one/lake",
        "gs://one/lake/fact_events",
        "gs://closed",
        "gs://closed/x",
        "/local",
        "file:///local",
    ):
        check_reachable(uri)
    assert asked == ["gs://one/lake", "gs://closed"]
