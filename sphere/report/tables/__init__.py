"""Tables of a study: `gather` the streams' CSVs once, then every entry of `TABLES` is one call.

`gather(Path("results/embedded"), study, tables_dir)`, then
`TABLES["table1"](tables_dir, tables_dir / "table1", published=Path("config/published"))` writes .csv, .md and .tex.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sphere.report.tables.answers import belief_table, strict_table
from sphere.report.tables.comparison import comparison_table
from sphere.report.tables.cost import cost_table
from sphere.report.tables.editing import checkpoint_table, family_table, main_table, plug_and_play_table, read_paper
from sphere.report.tables.incidents import mark_stops
from sphere.report.tables.layout import FAMILIES
from sphere.report.tables.locate import layers_table
from sphere.report.tables.neutral import neutral_table
from sphere.report.tables.portability import portability_table
from sphere.report.tables.render import Table, write_table
from sphere.report.tables.retention import retention_table
from sphere.report.tables.stream import (
    ability_table,
    energy_table,
    runtime_table,
    sensitivity_table,
    skipped_table,
    spearman_table,
    tuning_table,
    warning_table,
)
from sphere.report.tables.summaries import SUMMARIES, gather, load

__all__ = ["SUMMARIES", "TABLES", "build", "gather", "load", "write_all"]

Maker = Callable[[Path, Path | None], Table]


def _of_family(family: str) -> Maker:
    return lambda tables, _: family_table(load(tables, "editing_by_method"), family)


PUBLISHED = {"table1": "table1_main", "runtime": "table2_runtime", "spearman": "spearman", "sensitivity": "sensitivity"}
"""Tables that the paper has too, and the files of config/published."""


def _comparison(tables: Path, published: Path | None) -> Table:
    return comparison_table(
        {name: build(name, tables, published=published) for name in PUBLISHED},
        {name: read_paper(published, file) for name, file in PUBLISHED.items()},
        load(tables, "editing_by_method"),
        read_paper(published, "independent"),
    )


_MAKERS: dict[str, Maker] = {
    "table1": lambda t, p: main_table(load(t, "editing_by_method"), read_paper(p, "table1_main")),
    **{f"editing_{family}": _of_family(family) for family in FAMILIES},
    "strict": lambda t, _: strict_table(load(t, "editing_by_method")),
    "belief": lambda t, _: belief_table(load(t, "editing_by_method")),
    "portability": lambda t, _: portability_table(load(t, "editing_by_method")),
    "retention": lambda t, _: retention_table(load(t, "retention_summary")),
    "checkpoints": lambda t, _: checkpoint_table(load(t, "editing_by_method")),
    "plug_and_play": lambda t, p: plug_and_play_table(load(t, "editing_summary"), read_paper(p, "table1_main")),
    "runtime": lambda t, p: runtime_table(load(t, "timing_summary"), read_paper(p, "table2_runtime")),
    "cost": lambda t, _: cost_table(load(t, "timing_summary"), load(t, "cost_summary")),
    "general_ability": lambda t, _: ability_table(load(t, "general_ability_by_method")),
    "neutral": lambda t, _: neutral_table(load(t, "neutral_by_method")),
    "energy": lambda t, _: energy_table(load(t, "energy_summary")),
    "spearman": lambda t, p: spearman_table(
        load(t, "editing_summary"), load(t, "energy_summary"), read_paper(p, "spearman")
    ),
    "early_warning": lambda t, _: warning_table(load(t, "editing_summary"), load(t, "energy_summary")),
    "sensitivity": lambda t, p: sensitivity_table(load(t, "sensitivity_summary"), read_paper(p, "sensitivity")),
    "comparison": _comparison,
    "layers": lambda t, _: layers_table(load(t, "layer_effects"), load(t, "layer_sets")),
    "tuning": lambda t, _: tuning_table(load(t, "tuning_summary")),
    "skipped": lambda t, _: skipped_table(load(t, "skipped_summary")),
}


def build(name: str, tables: Path, *, published: Path | None = None) -> Table:
    """The table called `name` from the summaries in `tables`; `published` is config/published."""
    return mark_stops(_MAKERS[name](tables, published), load(tables, "incidents"))


def _writer(name: str) -> Callable[..., None]:
    def write(tables: Path, out_stem: Path, *, published: Path | None = None) -> None:
        write_table(build(name, tables, published=published), out_stem)

    write.__doc__ = f"Write the table {name} as out_stem.csv, .md and .tex."
    return write


TABLES: dict[str, Callable[..., None]] = {name: _writer(name) for name in _MAKERS}
"""name -> function(tables, out_stem, *, published=None), which writes out_stem.csv, .md and .tex."""


def write_all(tables: Path, out: Path, *, published: Path | None = None) -> None:
    """Write every table into the folder `out`."""
    for name, write in TABLES.items():
        write(tables, out / name, published=published)
