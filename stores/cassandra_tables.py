"""The tables of a Cassandra device store and their age limit."""

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
# compaction windows per age limit (at least an hour each): expired files are dropped a whole window at a time
_WINDOWS = 30


def prepare_tables(cluster: Cluster, session: Session, keyspace: str, ttl: int | None, read_only: bool) -> int | None:
    """Create the tables that are missing, and set their age limit if it differs.

    Args:
        cluster: The connected cluster.
        session: A session of the cluster.
        keyspace: The keyspace of the tables.
        ttl: Age in microseconds at which a row expires, rounded up to whole seconds; None leaves the limit as it is.
            Existing rows keep the limit that they were written with.
        read_only: Change nothing.

    Returns:
        The age limit in microseconds, or None without one.

    Raises:
        StoreError: The keyspace does not exist or, with read_only, the tables do not.
        DriverException: A request is refused or not answered.
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
