"""Options as a user writes them, and where the stores are looked up."""

from pathlib import Path

import pytest

from pipelines.options import Problems, Stores, parse_choice, parse_count, parse_share, read_config
from schemas.errors import OptionError, StoreError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder without a config file, and no setting of this machine."""
    monkeypatch.chdir(tmp_path)
    for name in ("CLICKSTREAM_LAKE", "CLICKSTREAM_DEVICES", "CLICKSTREAM_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def config(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_option_comes_before_environment_before_config_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config(tmp_path / "clickstream.toml", 'lake = "of the file"\ndevices = "of the file"')
    assert Stores.find(None, None, None) == Stores("of the file", "of the file")
    monkeypatch.setenv("CLICKSTREAM_LAKE", "of the environment")
    assert Stores.find(None, None, None) == Stores("of the environment", "of the file")
    assert Stores.find("of the option", None, None) == Stores("of the option", "of the file")


def test_config_file_named_by_option_comes_before_the_environments_before_the_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config(tmp_path / "clickstream.toml", 'lake = "of the folder"')
    assert read_config(None) == {"lake": "of the folder"}
    monkeypatch.setenv("CLICKSTREAM_CONFIG", str(config(tmp_path / "of_environment.toml", 'lake = "e"')))
    assert read_config(None) == {"lake": "e"}
    assert read_config(config(tmp_path / "of_option.toml", 'lake = "o"')) == {"lake": "o"}


def test_without_any_setting_a_store_says_where_it_can_be_named() -> None:
    stores = Stores.find(None, None, None)
    for need, words in (
        (stores.need_lake, ("--lake", "CLICKSTREAM_LAKE", "clickstream.toml")),
        (stores.need_devices, ("--devices", "CLICKSTREAM_DEVICES", "clickstream.toml")),
    ):
        with pytest.raises(OptionError) as refusal:
            need()
        assert [word for word in words if word not in str(refusal.value)] == []


def test_empty_setting_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKSTREAM_LAKE", "")
    assert Stores.find("", None, None).lake is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lake = ", "cannot read"),
        ('lake = "a"\nlakes = "b"\nshards = 3', "lakes, shards"),
        ("lake = 3", "lake must be text"),
        ("[lake]\nuri = 'a'", "lake must be text"),
    ],
)
def test_bad_config_file_is_refused_by_name_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = config(tmp_path / "bad.toml", text)
    with pytest.raises(OptionError) as refusal:
        read_config(path)
    assert words in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_config_file_that_was_named_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert read_config(None) == {}
    for named in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(OptionError, match="cannot read the config file"):
            read_config(named)
    monkeypatch.setenv("CLICKSTREAM_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(OptionError, match="cannot read the config file"):
        read_config(None)


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("100k", 100_000), ("5M", 5_000_000), ("2G", 2_000_000_000), ("1_000", 1000), ("007", 7)],
)
def test_count_understands_thousands(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "0k", "-1", "1.5k", "k", "1K", "1e3", "ten", "²", " 1"])
def test_text_that_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="not a whole number"):
        parse_count(text)


@pytest.mark.parametrize(("text", "share"), [("0", 0), ("1", 1), ("0.02", 0.02), ("2%", 0.02), ("100%", 1)])
def test_share_is_a_fraction_or_a_percentage(text: str, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "%", "half", "-0.1", "1.01", "101%", "nan", "inf"])
def test_text_that_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(OptionError) as refusal:
        parse_share(text)
    assert repr(text) in str(refusal.value)


def test_choice_names_what_there_is() -> None:
    assert parse_choice("merge", ("merge", "append")) == "merge"
    with pytest.raises(OptionError, match="'Merge' is none of merge, append"):
        parse_choice("Merge", ("merge", "append"))


def refuse(error: Exception) -> None:
    raise error


def test_problems_are_told_together_a_line_each() -> None:
    problems = Problems()
    assert problems.attempt("--good", lambda: 5) == 5
    assert problems.attempt("--bad", lambda: refuse(OptionError("is bad"))) is None
    problems.attempt("", lambda: refuse(StoreError("two\nlines")))
    problems.require(False, "something is missing")
    problems.require(True, "never told")
    with pytest.raises(OptionError) as refusal:
        problems.raise_any()
    assert str(refusal.value).split("\n") == ["--bad: is bad", "two", "lines", "something is missing"]


def test_fault_of_the_program_is_no_problem_of_the_user() -> None:
    with pytest.raises(KeyError):
        Problems().attempt("--x", lambda: refuse(KeyError("x")))
    Problems().raise_any()
