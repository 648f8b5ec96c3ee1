"""What the drills record, and where it goes: the table of docs/reliability.md, when ``make drill`` asks for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from workplace import ROOT

PAGE = ROOT / "docs" / "reliability.md"
MARK = "<!-- {} of the table that `make drill` writes -->"
LONG = bool(os.environ.get("SPHERE_DRILL"))
"""Whether this is ``make drill``: many kills, and the table is written."""


@dataclass
class Attempt:
    """One fault, tried once."""

    seen: str = ""
    """What the user sees."""


@dataclass
class Row:
    """One kind of fault."""

    how: str
    seen: str = ""
    tried: int = 0
    survived: int = 0


Drill = Callable[..., AbstractContextManager[Attempt]]


@pytest.fixture(scope="session")
def recorded() -> Iterator[dict[str, Row]]:
    """Fault -> what came of it."""
    rows: dict[str, Row] = {}
    yield rows
    if LONG:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")


@pytest.fixture
def drill(recorded: dict[str, Row]) -> Drill:
    """``with drill(fault, how) as attempt``: a fault is survived if the block ends well; it sets ``attempt.seen``."""

    @contextmanager
    def attempted(fault: str, how: str, *, times: int = 1) -> Iterator[Attempt]:
        row = recorded.setdefault(fault, Row(how))
        row.tried += times
        attempt = Attempt()
        yield attempt
        row.survived += times
        row.seen = row.seen or attempt.seen

    return attempted


def page(text: str, rows: dict[str, Row]) -> str:
    """The page with its table brought up to date."""
    begin, end = MARK.format("begin"), MARK.format("end")
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    lines = ["| fault | how it is tried | what the user sees | tried | survived | lost |",
             "| --- | --- | --- | ---: | ---: | ---: |"]  # fmt: skip
    for fault, row in sorted(rows.items()):
        seen = f"`{row.seen}`".replace("|", r"\|") if row.seen else "nothing"
        lines.append(f"| {fault} | {row.how} | {seen} | {row.tried} | {row.survived} | {row.tried - row.survived} |")
    table = "\n".join(lines)
    return f"{head}{begin}\n\n{table}\n\n{end}{tail}"


def line(output: str, start: str, *, folder: Path | None = None) -> str:
    """The one line of ``output`` that begins with ``start``, without what differs between runs."""
    found = {each.strip() for each in output.splitlines() if each.strip().startswith(start)}
    assert len(found) == 1, f"{len(found)} lines begin with {start!r}:\n{output[-3000:]}"
    text = found.pop()
    if folder is not None:
        text = text.replace(f"{folder}/", "")
    return re.sub(r"process \d+ on [^\s)]+", "process N on HOST", text)
