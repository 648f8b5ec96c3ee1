"""Side by side: published numbers, ours beside them, and the difference; what was not run says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import hypot, isfinite, nan

import pandas as pd

from sphere.report.tables.editing import PAPER_PREFIX, PAPER_SUFFIX
from sphere.report.tables.intervals import from_stderr
from sphere.report.tables.layout import (
    METRICS,
    TEXT_FAMILY,
    TEXT_METRICS,
    dataset_label,
    family_label,
    family_of,
    method_label,
    paper_name,
)
from sphere.report.tables.render import Cell, Column, Row, Table
from sphere.report.tables.stream import PAPER_MODELS

NOT_RUN = "not run"
NOT_SAID = "not said"
"""The family of a published number whose source does not name it."""
OTHER_FAMILY = "other family"
Place = tuple[str, str]
"""(section, label) of a row."""
Families = tuple[str, str]
"""Of our number and of the published one; empty for a quantity that is of none, such as seconds."""
SPEED = {"edit_s": "seconds of a batch", "projection_s": "seconds of the projection", "ratio_percent": "their ratio, %"}


def comparison_table(
    tables: Mapping[str, Table],
    papers: Mapping[str, pd.DataFrame | None],
    by_method: pd.DataFrame,
    independent: pd.DataFrame | None = None,
) -> Table:
    """One row a published number: ours with its 95 % interval, theirs with its ±, and the difference with both.

    `tables` are table1, runtime, spearman and sensitivity as they are printed, `papers` the published CSVs of the same
    names, `by_method` is editing_by_method, for what was run at all, and `independent` is independent.csv, a second
    reference. The table is empty for a study without a model of the paper.
    """
    columns = [Column("ours", "Ours"), Column("paper", "Published"), Column("difference", "Difference")]
    models = {name: model for model in by_method["model"].unique() if (name := paper_name(str(model), PAPER_MODELS))}
    title = "The paper's numbers and ours"
    if not models or any(paper is None for paper in papers.values()):
        note = "None of this study's models is one of the paper's: there is nothing to compare."
        return Table("comparison", title, "Value", columns, [], [note])
    ours = dict(_ours(tables, models))
    rows = [
        _row(place, families, ours.get(place, Cell(nan)), Cell(paper, half))
        for place, families, (paper, half) in _theirs(papers, models)
    ]
    rows += _independent(independent, by_method, models)
    ends = by_method[by_method["edits"] > 0].groupby("model")["edits"].max()
    said = ", ".join(f"{model} {int(ends[model]):,}" for model in models.values() if model in ends)
    notes = [
        f"Ours: after the last checkpoint ({said} edits); the paper's Table 1 after 15,000, its Figure 1 over 5,000.",
        "± of ours: half-width of its 95 % interval, with one seed over records only; of the paper: as printed, one "
        "standard error (config/published/README.md); of the difference: 95 %, of both where the paper has one.",
        "The second reference (config/published/independent.csv) is of one order of the edits, at the checkpoints it "
        "names; ours is shown where a checkpoint is the same.",
        "Families are named on both sides, and no difference is taken across them. The paper does not say of which "
        "family, model and dataset its Figure 1 and its sensitivity map are: those have no difference.",
    ]
    return Table("comparison", title, "Value", columns, rows, notes)


def _independent(reference: pd.DataFrame | None, by_method: pd.DataFrame, models: Mapping[str, str]) -> Iterator[Row]:
    """The rows of the second reference: same model, dataset, method, family and number of edits, or not run."""
    for row in [] if reference is None else reference.to_dict("records"):
        model = models.get(str(row["model"]))
        for metric in METRICS if model is not None else ():
            same = {"model": model, "dataset": row["dataset"], "method": row["method"], "edits": row["edits"]}
            same |= {"metric_family": row["family"], "metric": metric}
            found = by_method
            for column, value in same.items():
                found = found[found[column] == value]
            ours, half = nan, nan
            if len(found):
                ours, low, high = (100 * float(found[name].iloc[0]) for name in ("mean", "ci_low", "ci_high"))
                half = (high - low) / 2
            section = f"{row['source']}, {row['model']} on {dataset_label(row['dataset'])}"
            label = f"{method_label(row['method'])}, {metric} after {int(row['edits']):,} edits"
            yield _row((section, label), (row["family"], row["family"]), Cell(ours, half), Cell(row[metric]))


def _row(place: Place, families: Families, ours: Cell, paper: Cell) -> Row:
    """One published number beside ours, with the family of each; the difference only within one family."""
    section, label = place
    own, theirs = families
    if own or theirs:
        label += f" (ours: {family_label(own)}; published: {family_label(theirs)})"
    known = isfinite(ours.value)
    difference = Cell(nan, note=OTHER_FAMILY if known else NOT_RUN)
    if known and own == theirs:
        difference = Cell(ours.value - paper.value, _both(ours.half_width, paper.half_width))
    cells = {"ours": replace(ours, note="" if known else NOT_RUN), "paper": paper, "difference": difference}
    return Row(section, label, cells)


def _both(ours: float, theirs: float) -> float:
    """Half-width of a difference: our half-width, with 95 % of the paper's ±, a standard error, where there is one."""
    reach = from_stderr(0.0, theirs).half_width
    return hypot(ours, reach) if isfinite(reach) else ours


def _theirs(
    papers: Mapping[str, pd.DataFrame | None], models: Mapping[str, str]
) -> Iterator[tuple[Place, Families, tuple[float, float]]]:
    """Where each published number stands in the table, the families, the number and its ±; without Figure 1's p."""
    of_figures = (family_of("counterfact"), NOT_SAID)
    frames = {name: paper for name, paper in papers.items() if paper is not None}
    for row in frames["table1"].to_dict("records"):
        for dataset, prefix in PAPER_PREFIX.items():
            for metric, suffix in PAPER_SUFFIX.items():
                if isfinite(value := row.get(f"{prefix}_{suffix}", nan)):
                    families = family_of(dataset), str(row[f"{prefix}_family"])
                    families = (TEXT_FAMILY, TEXT_FAMILY) if metric in TEXT_METRICS else families
                    place = _editing(row["model"], dataset, row["method"], metric)
                    yield place, families, (value, row[f"{prefix}_{suffix}_pm"])
    for row in frames["runtime"].to_dict("records"):
        for key, label in SPEED.items():
            yield (f"Table 2, {row['model']}", f"SPHERE, {label}"), ("", ""), (row[key], nan)
    for model in models.values():
        for row in frames["spearman"].to_dict("records"):
            for metric in METRICS:
                yield _rank(model, row["method"], metric), of_figures, (row[f"{metric}_r"], nan)
        for row in frames["sensitivity"].to_dict("records"):
            yield _setting(model, f"η = {row['eta']:g}", row["alpha"]), of_figures, (row["efficacy"], nan)


def _ours(tables: Mapping[str, Table], models: Mapping[str, str]) -> Iterator[tuple[Place, Cell]]:
    """Our numbers under the same places."""
    names = {model: name for name, model in models.items()}
    for row in tables["table1"].rows:
        for dataset in PAPER_PREFIX if row.section in names else ():
            for metric in PAPER_SUFFIX:
                if (cell := row.cells.get(f"{dataset}_{metric}")) is not None:
                    yield _editing(names[row.section], dataset, row.label, metric), cell
    for row in tables["runtime"].rows:
        for key, label in SPEED.items() if row.section in names and row.label == method_label("sphere") else ():
            if key in row.cells:
                yield (f"Table 2, {names[row.section]}", f"SPHERE, {label}"), row.cells[key]
    for row in tables["spearman"].rows:
        model, _, dataset = row.section.partition(", ")
        for metric in METRICS if model in names and dataset == dataset_label("counterfact") else ():
            yield _rank(model, row.label, metric), row.cells[f"{metric}_r"]
    for row in tables["sensitivity"].rows:
        model, _, method = row.section.partition(", ")
        for key, cell in row.cells.items() if model in names and method == method_label("sphere") else ():
            yield _setting(model, row.label, float(key.removeprefix("alpha_"))), cell


def _editing(model: str, dataset: str, method: str, metric: str) -> Place:
    return f"Table 1, {model}, {dataset_label(dataset)}", f"{method}, {metric}"


def _rank(model: str, method: str, metric: str) -> Place:
    return f"Figure 1, beside {model} on CounterFact", f"{method}, r_s of HE and {metric}"


def _setting(model: str, eta: str, alpha: float) -> Place:
    return f"Sensitivity, beside {model}", f"{eta}, α = {alpha:g}"
