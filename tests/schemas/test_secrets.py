"""Where the secret of user_key comes from."""

from pathlib import Path

import pytest

from schemas.errors import OptionError
from schemas.secrets import USER_KEY_VARIABLE, UserKeySecret


@pytest.fixture(autouse=True)
def no_secret_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(USER_KEY_VARIABLE, raising=False)


def test_file_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USER_KEY_VARIABLE, "of the environment")
    (tmp_path / "secret").write_text("  of the file\n")
    found = UserKeySecret(tmp_path / "secret")
    assert (found.read(), found.is_default) == ("of the file", False)


def test_environment_comes_before_the_development_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USER_KEY_VARIABLE, "of the environment")
    assert (UserKeySecret().read(), UserKeySecret().is_default) == ("of the environment", False)


@pytest.mark.parametrize("unset", [None, ""])
def test_without_a_secret_the_default_says_that_it_is_one(monkeypatch: pytest.MonkeyPatch, unset: str | None) -> None:
    if unset is not None:
        monkeypatch.setenv(USER_KEY_VARIABLE, unset)
    assert UserKeySecret().is_default
    assert UserKeySecret().read()


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_file_without_a_usable_secret_is_refused_and_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv(USER_KEY_VARIABLE, "of the environment")
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(OptionError, match="secret"):
        UserKeySecret(tmp_path / "secret").read()


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(OptionError) as refusal:
            UserKeySecret(path).read()
        assert str(path) in str(refusal.value)


def test_secret_is_not_in_what_travels(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden words")
    assert "hidden words" not in repr(UserKeySecret(tmp_path / "secret"))
