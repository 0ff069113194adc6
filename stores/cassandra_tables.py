"""The tables of a Cassandra device store, and the age limit that they carry."""

from cassandra.cluster import Cluster, Session

from schemas.durations import HOUR, SECOND
from schemas.errors import StoreError

_TABLES = {
    "events": """(device_id text, week int, event_time bigint, event_id text, value blob,
        PRIMARY KEY ((device_id, week), event_time, event_id))
        WITH CLUSTERING ORDER BY (event_time DESC, event_id ASC)""",
    "sessions": """(device_id text, week int, session_start bigint, session_id text, pane int, value blob,
        PRIMARY KEY ((device_id, week), session_start, session_id, pane))
        WITH CLUSTERING ORDER BY (session_start DESC, session_id ASC, pane DESC)""",
    "facts": "(name text, value bigint, PRIMARY KEY (name, value)) WITH CLUSTERING ORDER BY (value DESC)",
}

_AGED = ("events", "sessions")
# at that age the files of an hour, or of some, go whole: there are some thirty of them
_WINDOWS = 30


def prepare_tables(cluster: Cluster, session: Session, keyspace: str, ttl: int | None, read_only: bool) -> int | None:
    """Make the tables, or set their age limit, where they are not as asked.

    Args:
        cluster: The cluster, connected.
        session: A session of it.
        keyspace: Where the tables are.
        ttl: Microseconds after which a row goes by itself, in whole seconds; None leaves the limit as it is. Rows
            that are there already keep the limit that they were written with.
        read_only: Change nothing.

    Returns:
        The age limit in microseconds, or None where there is none.

    Raises:
        StoreError: The keyspace does not exist or, with read_only, the tables do not.
        DriverException: The store does not allow or answer it.
    """
    where = f"cassandra keyspace {keyspace}"
    metadata = cluster.metadata.keyspaces.get(keyspace)
    if metadata is None:
        raise StoreError(
            f"{where}: does not exist; make it with CREATE KEYSPACE {keyspace} WITH replication = "
            "{'class': 'NetworkTopologyStrategy', 'replication_factor': 3}"
        )
    missing = [name for name in _TABLES if name not in metadata.tables]
    if read_only and missing:
        raise StoreError(f"{where}: there is no device store here")
    for name in missing:
        session.execute(f'CREATE TABLE IF NOT EXISTS "{keyspace}".{name} {_TABLES[name]}')
    limits = {name: metadata.tables[name].options["default_time_to_live"] for name in _AGED if name not in missing}
    if ttl is not None:
        seconds = -(-ttl // SECOND)
        for name in _AGED:
            if limits.get(name) != seconds and not read_only:
                session.execute(f'ALTER TABLE "{keyspace}".{name} WITH {_limit(seconds)}')
        return seconds * SECOND
    return limits.get("events", 0) * SECOND or None


def _limit(seconds: int) -> str:
    hours = max(1, seconds * SECOND // HOUR // _WINDOWS)
    return (
        f"default_time_to_live = {seconds} AND compaction = {{'class': 'TimeWindowCompactionStrategy', "
        f"'compaction_window_unit': 'HOURS', 'compaction_window_size': {hours}}}"
    )
