"""What is RocksDB's own: the process that holds it, the files it leaves, and what the system refuses."""

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.errors import StoreBusyError, StoreError
from schemas.events import EVENT
from stores.device_store import open_device_store
from tests.session_panes import pane, pane_table

NOON = datetime(2026, 4, 12, 12, tzinfo=UTC)
BULK = 40_000
"""Rows of a table that is written past the log."""


def clicks(count: int, device_id: str = "phone", first: int = 0) -> pa.Table:
    """Events a second apart, their ids e-0, e-1 …"""
    times = [NOON + timedelta(seconds=i) for i in range(first, first + count)]
    columns = {
        "event_id": [f"e-{i}" for i in range(first, first + count)],
        "event_type": ["page_view"] * count,
        "event_time": times,
        "event_date": [time.date() for time in times],
        "client_time": times,
        "device_id": [device_id] * count,
    }
    nulls = {field.name: pa.nulls(count, field.type) for field in EVENT if field.name not in columns}
    return pa.Table.from_pydict({name: (columns | nulls)[name] for name in EVENT.names}, schema=EVENT.schema)


def session(session_id: str, device_id: str) -> pa.Table:
    return pane_table(pane(session_id, device_id=device_id))


def newest(path: Path, read_only: bool = False) -> list[str]:
    with open_device_store(str(path), read_only) as store:
        return store.recent_events("phone", limit=1).column("event_id").to_pylist()


def run_elsewhere(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in another process, where `path` is the first argument and the helpers above are at hand."""
    prelude = f"""
        import os, resource, signal, sys
        sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
        from pathlib import Path
        from test_rocksdb_store import *
        path = Path(sys.argv[1])
    """
    program = textwrap.dedent(prelude) + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def files_with(path: Path, text: bytes) -> set[str]:
    return {file.name for file in path.rglob("*") if file.is_file() and text in file.read_bytes()}


def test_bare_path_is_a_rocksdb_store_and_missing_parents_are_made(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "yet"
    with open_device_store(str(path)) as store:
        store.write_events(clicks(3))
    with open_device_store(f"rocksdb:{path}") as store:
        assert store.recent_events("phone").num_rows == 3


def test_bulk_write_is_read_at_once_and_after_reopening(tmp_path: Path) -> None:
    with open_device_store(str(tmp_path)) as store:
        store.write_events(clicks(BULK))
        assert store.recent_events("phone", limit=BULK + 1).num_rows == BULK
    assert newest(tmp_path) == [f"e-{BULK - 1}"]


def test_table_longer_than_one_encoded_piece_is_written_whole(tmp_path: Path) -> None:
    with open_device_store(str(tmp_path)) as store:
        assert store.write_events(clicks(100_001)) == 100_001
        assert store.delete_device("phone") == 100_001


def test_second_process_is_told_that_the_store_is_in_use(tmp_path: Path) -> None:
    with open_device_store(str(tmp_path)):
        other = run_elsewhere(
            """
            try:
                open_device_store(str(path))
            except StoreBusyError as error:
                print(error)
            """,
            tmp_path,
        )
    assert other.stdout.startswith(f"{tmp_path}: another process has this device store open")
    assert other.stdout.count("\n") == 1


def test_forked_child_does_not_use_its_parents_handle(tmp_path: Path) -> None:
    with open_device_store(str(tmp_path)):
        child = os.fork()
        if child == 0:
            try:
                open_device_store(str(tmp_path))
            except StoreBusyError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_reader_in_another_process_follows_the_writer(tmp_path: Path) -> None:
    reader = """
        with open_device_store(str(path), read_only=True) as store:
            for line in sys.stdin:
                print(store.recent_events("phone", limit=1).column("event_id").to_pylist(), flush=True)
    """
    with open_device_store(str(tmp_path)) as store:
        store.write_events(clicks(5))
        store.flush()
        program = textwrap.dedent(
            f"""
            import sys
            sys.path[:0] = {sys.path!r}
            from pathlib import Path
            from stores.device_store import open_device_store
            path = Path({str(tmp_path)!r})
            """
        ) + textwrap.dedent(reader)
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdin is not None
            assert other.stdout is not None

            def seen() -> str:
                print(file=other.stdin, flush=True)
                return other.stdout.readline().strip()

            assert seen() == "['e-4']"
            # small: through the log
            store.write_events(clicks(1, first=5))
            store.flush()
            assert seen() == "['e-5']"
            # bulk: past the log, then all files replaced under the reader
            store.write_events(clicks(BULK, first=6))
            store.flush()
            store.compact()
            assert seen() == f"['e-{BULK + 5}']"
            store.delete_device("phone")
            store.compact()
            assert seen() == "[]"


def test_store_without_a_writer_can_be_read_only(tmp_path: Path) -> None:
    with open_device_store(str(tmp_path)) as store:
        store.write_events(clicks(2))
    assert newest(tmp_path, read_only=True) == ["e-1"]


def test_read_only_does_not_make_a_store(tmp_path: Path) -> None:
    path = tmp_path / "absent"
    with pytest.raises(StoreError, match="there is no device store here"):
        open_device_store(str(path), read_only=True)
    assert not path.exists()


@pytest.mark.parametrize("rows", [10, BULK])
def test_process_killed_after_flush_loses_nothing_flushed(tmp_path: Path, rows: int) -> None:
    killed = run_elsewhere(
        """
        store = open_device_store(str(path))
        store.write_events(clicks(int(sys.argv[2])))
        store.flush()
        store.write_events(clicks(int(sys.argv[2]), first=int(sys.argv[2])))
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
        rows,
    )
    assert killed.returncode == -9, killed.stderr
    with open_device_store(str(tmp_path)) as store:
        flushed = store.recent_events("phone", until=micros(rows), limit=rows + 1)
        assert flushed.num_rows == rows
        # what the rerun writes again makes the store whole
        store.write_events(clicks(2 * rows))
        assert store.recent_events("phone", limit=3 * rows).num_rows == 2 * rows


def micros(second: int) -> int:
    """Microseconds since 1970 of a second after noon."""
    return round((NOON + timedelta(seconds=second)).timestamp() * 1_000_000)


def test_store_closed_on_another_thread_is_let_go(tmp_path: Path) -> None:
    store = open_device_store(str(tmp_path))
    store.write_events(clicks(1))
    closing = threading.Thread(target=store.close)
    closing.start()
    closing.join()
    assert run_elsewhere("print(newest(path))", tmp_path).stdout == "['e-0']\n"


def test_last_of_two_stores_lets_go(tmp_path: Path) -> None:
    first, second = open_device_store(str(tmp_path)), open_device_store(f"rocksdb:{tmp_path}/../{tmp_path.name}")
    first.close()
    assert "another process" in run_elsewhere("newest(path)", tmp_path).stderr
    second.close()
    assert run_elsewhere("print(newest(path))", tmp_path).stdout == "[]\n"


def test_threads_write_beside_each_other(tmp_path: Path) -> None:
    with open_device_store(str(tmp_path)) as store:
        threads = [
            threading.Thread(target=store.write_events, args=(clicks(2_000, first=2_000 * i),)) for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.recent_events("phone", limit=10_000).num_rows == 8_000


def test_compaction_leaves_no_byte_of_a_deleted_device_in_any_file(tmp_path: Path) -> None:
    # nothing in common, else compression would write part of one as a reference to another
    secrets = (b"device-5c1f0a", b"SESSION=9e77b3", b"/page/d20468")
    with open_device_store(str(tmp_path)) as store:
        events = clicks(50, secrets[0].decode())
        page = pa.array([secrets[2].decode()] * 50)
        store.write_events(events.set_column(events.column_names.index("page_url"), "page_url", page))
        store.write_sessions(session(secrets[1].decode(), secrets[0].decode()))
        store.write_events(clicks(BULK))
        store.flush()
        # the search finds what is there
        assert all(files_with(tmp_path, secret) for secret in secrets)
        store.delete_device(secrets[0].decode())
        store.compact()
        for secret in (*secrets, *(secret.hex().encode() for secret in secrets)):
            assert files_with(tmp_path, secret) == set()
        assert store.recent_events("phone", limit=BULK + 1).num_rows == BULK
    assert not any(files_with(tmp_path, secret) for secret in secrets)


def test_compaction_leaves_no_byte_of_expired_rows(tmp_path: Path) -> None:
    with open_device_store(str(tmp_path)) as store:
        store.write_events(clicks(10, "old-device"))
        store.write_events(clicks(10, "new-device", first=1_000))
        store.expire(micros(100))
        store.compact()
        assert files_with(tmp_path, b"old-device") == set()
        assert store.recent_events("new-device").num_rows == 10


def test_expiry_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    with open_device_store(str(tmp_path)) as store:
        store.write_events(clicks(10))
        store.expire(micros(5))
    with open_device_store(str(tmp_path)) as store, open_device_store(str(tmp_path), read_only=True) as reader:
        assert store.recent_events("phone").num_rows == reader.recent_events("phone").num_rows == 5


def test_other_stores_of_the_process_work_on_after_a_compaction(tmp_path: Path) -> None:
    with open_device_store(str(tmp_path)) as one, open_device_store(str(tmp_path)) as other:
        one.write_events(clicks(3))
        other.compact()
        one.write_events(clicks(3, first=3))
        assert one.recent_events("phone").num_rows == other.recent_events("phone").num_rows == 6


def test_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for path in (file, file / "below"):
        with pytest.raises(StoreError, match=f"^{path}: is.* a file; a device store is a directory$"):
            open_device_store(str(path))


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Drops the rights of root, which no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_directory_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "locked"
    path.mkdir(mode=0o500)
    with ordinary_user(), pytest.raises(StoreError, match="no permission"):
        open_device_store(str(path))


def test_file_that_cannot_grow_is_an_error_at_flush_and_the_store_opens_again(tmp_path: Path) -> None:
    with open_device_store(str(tmp_path)) as store:
        store.write_events(clicks(10))
    failed = run_elsewhere(
        """
        store = open_device_store(str(path))
        store.write_events(clicks(BULK))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        for close in (store.flush, store.close):
            try:
                close()
            except StoreError as error:
                print(error)
        """,
        tmp_path,
    )
    assert failed.stdout == f"{tmp_path}: a file grew past the size that the system allows\n" * 2, failed.stderr
    with open_device_store(str(tmp_path)) as store:
        assert store.recent_events("phone", until=micros(10)).num_rows == 10


def test_full_disk_is_an_error_and_what_was_flushed_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        store = open_device_store(str(path))
        store.write_events(clicks(10))
        store.flush()

        def fill() -> None:
            store.write_events(clicks(30 * BULK, first=10))
            store.flush()

        with pytest.raises(StoreError, match=f"^{path}: the disk is full$"):
            fill()
        with pytest.raises(StoreError, match="the disk is full"):
            store.close()
        assert len(newest(path, read_only=True)) == 1
    finally:
        subprocess.run(["umount", "-l", path], check=True)
