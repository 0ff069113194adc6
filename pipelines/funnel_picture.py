"""Draws a funnel: one bar per step, or one per step and group."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.durations import SECOND, format_duration
from schemas.errors import OptionError, StoreError
from transforms.activities.funnel import Funnel

_SUFFIXES = (".png", ".svg", ".pdf")
_MOST_GROUPS = 8
_BAR, _TEXT = "#3b6ea5", "#333333"


def check_picture(path: Path) -> None:
    """Check before a query whether its picture can be drawn.

    Raises:
        OptionError: matplotlib is not installed, or the file's suffix is not a supported format.
    """
    if find_spec("matplotlib") is None:
        raise OptionError("a picture needs matplotlib: pip install 'clickstream[plot]'")
    if path.suffix.lower() not in _SUFFIXES:
        raise OptionError(f"{path} is none of {', '.join(_SUFFIXES)}")


def draw_funnel(table: pa.Table, funnel: Funnel, path: Path) -> None:
    """Draw the rows of a funnel.

    Args:
        table: The result of `Funnel.sql`.
        funnel: The funnel.
        path: The file; its suffix selects the format.

    Raises:
        StoreError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = table.to_pylist()
    groups = _largest_groups(rows, funnel)
    figure = Figure(figsize=(9, 1.4 + len(funnel.steps) * max(0.62, 0.3 * len(groups) + 0.25)), layout="constrained")
    axes = figure.subplots()
    if funnel.by is None:
        _draw_steps(axes, rows)
    else:
        _draw_groups(axes, rows, funnel.by, groups)
    # matplotlib would take text between dollar signs as mathematics
    axes.set_yticks(range(len(funnel.steps)), [step.replace("$", r"\$") for step in funnel.steps])
    axes.invert_yaxis()
    axes.set_title(_title(funnel, groups), loc="left", color=_TEXT)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False, labelsize=11, labelcolor=_TEXT)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StoreError(f"{path}: cannot write the picture: {error.strerror}") from error


def _draw_steps(axes: Any, rows: list[dict[str, Any]]) -> None:
    widest = max((row["reached"] for row in rows), default=0) or 1
    axes.barh(range(len(rows)), [row["reached"] for row in rows], height=0.62, color=_BAR)
    axes.set_xlim(0, widest * 1.45)
    for place, row in enumerate(rows):
        label = f"{row['reached']:,}"
        if place and row["share_of_first"] is not None:
            label += f"  {row['share_of_first']:.1%} of all"
        if place and row["share_of_previous"] is not None:
            label += f", {row['share_of_previous']:.1%} of the step before"
        axes.text(row["reached"] + widest * 0.01, place, label, va="center", color=_TEXT)
        if row["median_secs_to_next"] is not None:
            took = format_duration(round(row["median_secs_to_next"]) * SECOND)
            axes.text(widest * 0.01, place + 0.5, f"{took} in the median", va="center", fontsize=9, color="#777777")


def _draw_groups(axes: Any, rows: list[dict[str, Any]], by: str, groups: list[Any]) -> None:
    from matplotlib import colormaps

    height = 0.8 / max(len(groups), 1)
    for number, group in enumerate(groups):
        own = [row for row in rows if row[by] == group]
        shares = [row["share_of_first"] or 0 for row in own]
        places = [place - 0.4 + height * (number + 0.5) for place in range(len(own))]
        name = ("none" if group is None else str(group)).replace("$", r"\$")
        axes.barh(places, shares, height=height * 0.9, color=colormaps["tab10"](number), label=name)
        for place, row, share in zip(places, own, shares, strict=True):
            axes.text(share + 0.01, place, f"{share:.1%}  {row['reached']:,}", va="center", fontsize=9, color=_TEXT)
    axes.set_xlim(0, 1.2)
    if groups:
        axes.legend(title=by, loc="lower right", frameon=False)


def _largest_groups(rows: list[dict[str, Any]], funnel: Funnel) -> list[Any]:
    if funnel.by is None:
        return []
    entered = sorted((row for row in rows if row["step"] == 1), key=lambda row: -row["reached"])
    return [row[funnel.by] for row in entered[:_MOST_GROUPS]]


def _title(funnel: Funnel, groups: list[Any]) -> str:
    title = f"{funnel.per.capitalize()}s within {format_duration(funnel.within)} of the first step"
    if funnel.by is not None:
        title += f", by {funnel.by}"
    return f"{title}, the {_MOST_GROUPS} largest" if len(groups) == _MOST_GROUPS else title
