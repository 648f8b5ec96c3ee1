"""The measured table as Markdown, as JSON, and between the markers of a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measure import Row, Series

from sphere.errors import InputError
from sphere.files import write_atomically

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def markdown(machine: Mapping[str, Any], command: str, rows: Sequence[Row], growth: Sequence[Series]) -> str:
    """What was measured, where, and by which command."""
    named = ", ".join(f"{key} {value}" for key, value in machine.items())
    head = ["what", "on", "measured (least to most)", "goal", "library", "plain", "operations", "difference"]
    lines = [f"`{command}` on {named}.", "", _line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(row)) for row in rows]
    for by in dict.fromkeys(series.by for series in growth):
        chosen = [series for series in growth if series.by == by]
        lines += ["", _line([f"{chosen[0].unit}, by {by}", *map(str, chosen[0].sizes)])]
        lines += [_line(["---"] * (1 + len(chosen[0].sizes)))]
        lines += [_line([series.what, *(f"{cost:.3g}" for cost in series.costs)]) for series in chosen]
    return "\n".join(lines) + "\n"


def plain_data(
    machine: Mapping[str, Any], command: str, rows: Sequence[Row], growth: Sequence[Series]
) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "machine": dict(machine),
        "command": command,
        "rows": [dataclasses.asdict(row) for row in rows],
        "growth": [dataclasses.asdict(series) for series in growth],
    }


def around(page: Path) -> tuple[str, str]:
    """What stands before and after the page's table; InputError if it has no place for one."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise InputError(f"{page} has no place for the table: put the lines {BEGIN} and {END} into it")
    return text.split(BEGIN)[0], text.split(END)[1]


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the page's markers."""
    before, after = around(page)
    with write_atomically(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")


def _cells(row: Row) -> list[str]:
    """The cells of one row."""
    goal = ""
    if row.goal is not None:
        goal = f"{'≥' if row.goal.at_least else '≤'} {row.goal.bound:g} {row.unit}"
    if not row.values:
        return [row.what, row.on, row.note, goal, "", "", "", ""]
    measured = f"{row.value:.3g} {row.unit} ({min(row.values):.3g} to {max(row.values):.3g})"
    if row.goal is not None:
        goal += ", met" if row.goal.met(row.value) else ", missed"
    return [
        f"{row.what}; {row.note}" if row.note else row.what,
        row.on,
        measured,
        goal,
        _number(row.fast, " s"),
        _number(row.plain, " s"),
        _number(row.operations, " x"),
        _number(row.difference, ""),
    ]


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.2g}{unit}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
