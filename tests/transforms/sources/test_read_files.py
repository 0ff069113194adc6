"""Files as a source: which files a glob means, and each of their lines read once."""

import gzip
import os
from datetime import UTC, datetime
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that

from runners.beam_options import parse_beam_options
from schemas.errors import InputError
from transforms.metrics import read_counters
from transforms.sources import read_files
from transforms.sources.read_files import ReadFiles, list_files

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that are input, and files beside them that are not."""
    root = tmp_path / "in"
    for name in ("b.jsonl", "a.jsonl", "deep/er/c.gz", "_truth/t.jsonl", ".hidden", "deep/_SUCCESS", ".git/x.jsonl"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1234"[: len(name) % 4 + 1])
    return root


def names(files: dict[str, int], root: Path) -> list[str]:
    return [str(Path(path).relative_to(root)) for path in files]


@pytest.mark.parametrize("ending", ["", "/", "/**"])
def test_folder_means_all_files_below_it_that_are_input(folder: Path, ending: str) -> None:
    assert names(list_files([f"{folder}{ending}"]), folder) == ["a.jsonl", "b.jsonl", "deep/er/c.gz"]


def test_files_come_with_their_sizes(folder: Path) -> None:
    assert all(size == Path(path).stat().st_size for path, size in list_files([str(folder)]).items())


def test_glob_means_what_it_matches(folder: Path) -> None:
    assert names(list_files([f"{folder}/*.jsonl"]), folder) == ["a.jsonl", "b.jsonl"]
    assert names(list_files([f"{folder}/[b]*"]), folder) == ["b.jsonl"]
    assert names(list_files([f"{folder}/[d]ee?/*/c*"]), folder) == ["deep/er/c.gz"]


def test_file_named_outright_is_read_also_below_a_hidden_folder(tmp_path: Path) -> None:
    path = tmp_path / ".cache" / "_x" / "a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{}")
    assert list_files([str(path)]) == {str(path): 2}
    assert list_files([str(path.parent)]) == {str(path): 2}


def test_file_under_two_globs_is_read_once(folder: Path) -> None:
    twice = list_files([str(folder), f"{folder}/*.jsonl", f"{folder}/deep/../a.jsonl"])
    assert names(twice, folder) == ["a.jsonl", "b.jsonl", "deep/er/c.gz"]


def test_relative_glob_gives_absolute_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert list(list_files(["in/*.jsonl"])) == [f"{folder}/a.jsonl", f"{folder}/b.jsonl"]


def test_file_or_folder_that_is_there_is_meant_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a[1]*?.jsonl", "a1xx.jsonl", "b[2]*/c.jsonl", "b2x/c.jsonl", "b[2]*/_d/e.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    assert names(list_files([f"{tmp_path}/a[1]*?.jsonl"]), tmp_path) == ["a[1]*?.jsonl"]
    assert names(list_files([f"{tmp_path}/b[2]*"]), tmp_path) == ["b[2]*/c.jsonl"]


def test_file_uri_is_the_path_that_it_encodes(tmp_path: Path) -> None:
    (tmp_path / "a b%.jsonl").write_bytes(b"{}")
    assert names(list_files([f"file://{tmp_path}/a%20b%25.jsonl"]), tmp_path) == ["a b%.jsonl"]
    assert names(list_files([f"file://{tmp_path}/*.jsonl"]), tmp_path) == ["a b%.jsonl"]


def test_folder_that_a_link_leads_to_is_read_once_also_where_links_lead_back(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.jsonl").write_bytes(b"12")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "e.jsonl").symlink_to(tmp_path / "elsewhere" / "d.jsonl")
    (folder / "deep" / "back").symlink_to(folder)
    files = list_files([str(folder)])
    assert names(files, folder) == ["a.jsonl", "b.jsonl", "deep/er/c.gz", "e.jsonl", "linked/d.jsonl"]
    assert (files[f"{folder}/e.jsonl"], files[f"{folder}/linked/d.jsonl"]) == (2, 2)


def test_what_no_events_can_be_read_from_is_named_and_not_passed_over(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe")
    for pattern in (folder, folder / "pi*", folder / "pipe"):
        with pytest.raises(InputError, match=f"^{folder}/pipe is not a regular file$"):
            list_files([str(pattern)])
    (tmp_path / "of links").mkdir()
    (tmp_path / "of links" / "nowhere").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match="nowhere"):
        list_files([f"{tmp_path}/of links"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_or_folder_that_may_not_be_read_is_named_before_the_run(folder: Path) -> None:
    (folder / "a.jsonl").chmod(0)
    with pytest.raises(InputError, match=r"a\.jsonl cannot be read: permission denied"):
        list_files([str(folder)])
    (folder / "deep").chmod(0)
    with pytest.raises(InputError, match=r"cannot list .*Permission denied.*deep"):
        list_files([str(folder)])
    (folder / "deep").chmod(0o700)


def test_name_of_no_characters_is_not_the_folder_one_is_in() -> None:
    with pytest.raises(InputError, match="must not be empty"):
        list_files([""])


def test_every_glob_without_a_file_is_named(folder: Path) -> None:
    with pytest.raises(InputError) as refusal:
        list_files([f"{folder}/*.avro", f"{folder}/a.jsonl", f"{folder}/_truth/none*", "nowhere://bucket/x"])
    message = str(refusal.value)
    for bad in ("*.avro", "none*", "nowhere://"):
        assert bad in message
    assert "a.jsonl" not in message
    assert "\n" not in message


def lines_with_their_offsets(count: int) -> list[tuple[int, bytes]]:
    """Lines of every length from none to longer than a slice, each with the byte that it starts at."""
    lines, start = [], 0
    for number in range(count):
        line = f"{number}:".encode() + b"x" * (number * 7 % 100)
        lines.append((start, line))
        start += len(line) + 1
    return lines


@pytest.mark.parametrize("slice_bytes", [1, 37, 64, 1 << 20])
def test_file_cut_into_slices_gives_each_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_bytes: int
) -> None:
    monkeypatch.setattr(read_files, "SLICE_BYTES", slice_bytes)
    lines = lines_with_their_offsets(20)
    (tmp_path / "plain.jsonl").write_bytes(b"\n".join(line for _, line in lines))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(b"".join(line + b"\n" for _, line in lines)))
    files = list_files([str(tmp_path)])
    expected = sorted((path, 0, offset, line, None) for path in files for offset, line in lines)

    def holds(tables: list[pa.Table]) -> None:
        assert sorted(tuple(row[name] for name in COLUMNS) for table in tables for row in table.to_pylist()) == expected

    pipeline = beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([]))
    found = pipeline | ReadFiles(files, NOW)
    assert_that(found.batches, holds)
    assert_that(found.dead_letters, nothing, label="NoDamage")
    result = pipeline.run()
    result.wait_until_finish()
    counted = read_counters(result.metrics())
    assert counted == {"events_read": 40, "bytes_read": 2 * sum(len(line) for _, line in lines)}


COLUMNS = ("source", "partition", "offset", "payload", "arrival_time")


def nothing(tables: list[pa.Table]) -> None:
    assert tables == []


def test_many_small_files_share_a_batch_and_keep_their_places(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.jsonl").write_text("{}\n[]\n")

    def check(batches: list[pa.Table]) -> None:
        assert len(batches) < 5
        rows = pa.concat_tables(batches).select(["source", "offset", "payload"]).to_pylist()
        assert sorted((Path(row["source"]).name, row["offset"], row["payload"]) for row in rows) == [
            (f"{number:02}.jsonl", offset, text) for number in range(30) for offset, text in ((0, b"{}"), (3, b"[]"))
        ]

    with beam.Pipeline(runner=FnApiRunner(), options=parse_beam_options([])) as pipeline:
        read = pipeline | ReadFiles(list_files([str(tmp_path)]), NOW)
        assert_that(read.batches, check)
