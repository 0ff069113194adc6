"""Options that are passed on to Beam."""

import pytest
from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions

from runners.beam_options import parse_beam_options
from schemas.errors import OptionError


def test_options_of_beam_are_taken_over() -> None:
    options = parse_beam_options(["--temp_location=/somewhere", "--experiments", "a", "--experiments=b"])
    assert options.view_as(GoogleCloudOptions).temp_location == "/somewhere"
    assert options.view_as(DebugOptions).experiments == ["a", "b"]


def test_what_is_set_in_one_view_is_seen_in_all() -> None:
    options = parse_beam_options([])
    debug = options.view_as(DebugOptions)
    debug.view_as(GoogleCloudOptions).temp_location = "/elsewhere"
    assert options.view_as(GoogleCloudOptions).temp_location == "/elsewhere"
    assert options.get_all_options()["temp_location"] == "/elsewhere"
    assert options.view_as(DebugOptions) is debug


def test_no_options_are_beams_defaults() -> None:
    assert parse_beam_options([]).view_as(GoogleCloudOptions).temp_location is None


def test_every_unknown_option_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="no such option: --bogus, --other"):
        parse_beam_options(["--other=1", "--bogus", "2", "--temp_location=/x"])
    assert capfd.readouterr().err == ""


def test_wrong_value_is_told_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="direct_num_workers") as refusal:
        parse_beam_options(["--direct_num_workers=many"])
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stray"], "'stray': unexpected argument"),
        (["b.jsonl", "c.jsonl", "--temp_location=/x"], "'b.jsonl' and 1 more: unexpected argument"),
        (["--temp_location", "/x", "stray"], "'stray': unexpected argument"),
        (["--bogus=1", "stray"], "no such option: --bogus\n'stray': unexpected argument"),
        (["-x"], "no such option: -x"),
    ],
)
def test_argument_that_is_no_option_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        parse_beam_options(arguments)
