"""Renew what docs/performance.md says of each study's time, memory and disk, from the plan of every study in config/.

    python benchmarks/resources.py

Rows of what was measured stay, above their study's plan.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphere.files import write_text
from sphere.study.configuration import load_study
from sphere.study.plan import plan
from sphere.study.plan.costs import GIB

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
TABLE = re.compile(r"(\| study \| machine \|.*\n\|.*\n)((?:^\|.*\n)+)", re.MULTILINE)


def planned(study: str) -> str:
    """The row with what ``sphere plan STUDY`` says."""
    found = plan(load_study(study, root=ROOT / "config"))
    table, gpu = found.table(), found.gpu_hours
    time = f"{gpu:.0f} hours" if gpu else f"{table['hours'].sum():.1f} hours"
    memory = f"{table['host_gib'].max():.1f} GiB" + (f", GPU {table['gpu_gib_least'].max():.0f} GiB" if gpu else "")
    on_the_way = f", {found.peak_in_turn / GIB:.1f} on the way" if found.peak > found.kept else ""
    machine = f"one {'GPU' if gpu else 'core'}, one job at a time"
    return f"| `{study}` | {machine} | {time} | {memory} | {found.kept / GIB:.1f} GiB{on_the_way} | planned |"


def renewed(page: str) -> str:
    """The page with the planned rows of every study there is."""

    def table(found: re.Match[str]) -> str:
        lines: list[str] = []
        for study in sorted(path.stem for path in (ROOT / "config" / "studies").glob("*.yaml")):
            own = [line for line in found[2].splitlines() if line.startswith(f"| `{study}` |")]
            lines += [line for line in own if not line.endswith("| planned |")] + [planned(study)]
        return found[1] + "\n".join(lines) + "\n"

    return TABLE.sub(table, page)


if __name__ == "__main__":
    write_text(renewed(PAGE.read_text(encoding="utf-8")), PAGE)
