"""The table of a Bigtable device store: its column families and their age limit."""

from datetime import timedelta

from google.api_core.exceptions import AlreadyExists, NotFound
from google.cloud.bigtable import Client
from google.cloud.bigtable_admin_v2 import BigtableTableAdminClient
from google.cloud.bigtable_admin_v2.types import ColumnFamily, GcRule, ModifyColumnFamiliesRequest, Table

from stores.networked_store import PATIENCE

EVENTS, SESSIONS, STATE = "events", "sessions", "store"

_MICROSECOND = timedelta(microseconds=1)
_ONE_VERSION = {"max_num_versions": 1}


def prepare_table(project: str, instance: str, table: str, ttl: int | None, read_only: bool) -> int | None:
    """Create the table if it is missing, and set its age limit if it differs.

    Args:
        project: The project's id.
        instance: The instance's id.
        table: The table's id.
        ttl: Age in microseconds at which the store deletes a row; None leaves the limit as it is.
        read_only: Change nothing.

    Returns:
        The age limit in microseconds, or None without one.

    Raises:
        GoogleAPICallError: The table is missing and read_only is true, or a request is refused or not answered.
    """
    parent = f"projects/{project}/instances/{instance}"
    admin = Client(project=project, admin=True).table_admin_client  # type: ignore[no-untyped-call]
    try:
        return _Admin(admin, parent, table).prepare(ttl, read_only)
    finally:
        admin.transport.close()


class _Admin:
    def __init__(self, admin: BigtableTableAdminClient, parent: str, table: str) -> None:
        self._admin = admin
        self._parent = parent
        self._table = table
        self._name = f"{parent}/tables/{table}"

    def prepare(self, ttl: int | None, read_only: bool) -> int | None:
        try:
            found = self._get()
        except NotFound:
            if read_only:
                raise
            found = self._create()
            # the emulator ignores a rule that is given when a family is created
            self._limit(ttl)
            return ttl
        limit = _age_limit(found.column_families[EVENTS].gc_rule)
        if read_only or ttl is None or ttl == limit:
            return limit if ttl is None else ttl
        self._limit(ttl)
        return ttl

    def _get(self) -> Table:
        return self._admin.get_table(name=self._name, timeout=PATIENCE, retry=None)

    def _create(self) -> Table:
        families = {name: ColumnFamily(gc_rule=_ONE_VERSION) for name in (EVENTS, SESSIONS, STATE)}
        try:
            return self._admin.create_table(
                parent=self._parent,
                table_id=self._table,
                table=Table(column_families=families),
                timeout=PATIENCE,
                retry=None,
            )
        except AlreadyExists:
            # another worker created it first
            return self._get()

    def _limit(self, ttl: int | None) -> None:
        rule = _ONE_VERSION if ttl is None else {"union": {"rules": [{"max_age": ttl * _MICROSECOND}, _ONE_VERSION]}}
        update = ModifyColumnFamiliesRequest.Modification
        self._admin.modify_column_families(
            request=ModifyColumnFamiliesRequest(
                name=self._name,
                modifications=[update(id=name, update=ColumnFamily(gc_rule=rule)) for name in (EVENTS, SESSIONS)],
            ),
            timeout=PATIENCE,
            retry=None,
        )


def _age_limit(rule: GcRule) -> int | None:
    for part in (rule, *rule.union.rules):
        if "max_age" in part:
            return part.max_age // _MICROSECOND
    return None
