"""Settings and their lines: what tomllib reads is read, and a mistake does not hide the next."""

import tomllib

import pytest

from schemas.toml_lines import Mistake, read_toml

DOCUMENT = """\
# a comment
top = "x"  # = another
[a]
many = [
  1,  # one
  2,
]
"quoted = key" = "=="
x.y = 1
x.z = { b = 1, c = { d = 2 } }

[a.b."c d"]
text = '''
[not a header]
'''
"""


def test_document_is_read_as_tomllib_reads_it() -> None:
    document = read_toml(DOCUMENT)
    assert document.values == tomllib.loads(DOCUMENT)
    assert document.mistakes == []


def test_each_setting_has_its_line_and_another_that_of_the_table_around_it() -> None:
    document = read_toml(DOCUMENT)
    assert document.line(("a", "many")) == 4
    assert document.line(("a", "quoted = key")) == 8
    assert document.line(("a", "x", "z", "c", "d")) == 10
    assert document.line(("a", "b", "c d", "text")) == 13
    assert document.line(("a", "b", "c d", "missing", "too")) == 12
    assert document.line(("missing",)) == 1


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_every_mistake_is_told_and_the_rest_is_read(ends: str) -> None:
    lines = ["[a]", "b = 1", "b = 2", "c = = 3", "d = { e = 1 }", "d = 4", "[a]", "f = 5", "[a.b]", "[[a.g]]", "h = 6"]
    document = read_toml("\ufeff" + ends.join(lines))
    assert document.mistakes == [
        Mistake(3, "a.b is defined twice, first in line 2"),
        Mistake(4, "not TOML: invalid value"),
        Mistake(6, "a.d is defined twice, first in line 5"),
        Mistake(7, "a is defined twice, first in line 1"),
        Mistake(9, "a.b is defined twice, first in line 2"),
    ]
    assert document.values["a"]["b"] == 1
    assert document.values["a"]["d"] == {"e": 1}
    assert document.values["a"]["f"] == 5


def test_setting_that_never_ends_is_a_mistake_of_its_first_line() -> None:
    document = read_toml('a = [1,\nb = 2\nc = "\nd = 3\n')
    assert [mistake.line for mistake in document.mistakes] == [1, 3]
    assert document.values == {"b": 2, "d": 3}
