"""Tables of editing metrics: Table 1 in the paper's layout, and the same layout for every family of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from pathlib import Path

import pandas as pd

from sphere.report.published import read_published
from sphere.report.tables.intervals import over_seeds
from sphere.report.tables.layout import (
    ANCHORS,
    METRICS,
    TEXT_FAMILY,
    TEXT_METRICS,
    dataset_label,
    family_label,
    family_of,
    group_of,
    is_anchor,
    method_label,
    ordered_methods,
    paper_name,
    projected_pairs,
)
from sphere.report.tables.render import Cell, Column, Row, Table

SHORT = {
    "efficacy": "Eff.", "generalization": "Gen.", "specificity": "Spe.", "fluency": "Flu.", "consistency": "Consis.",
}  # fmt: skip
PAPER_PREFIX = {"zsre": "zsre", "counterfact": "cf"}  # of table1_main.csv's columns
PAPER_SUFFIX = {
    "efficacy": "eff", "generalization": "gen", "specificity": "spe", "fluency": "flu", "consistency": "consis",
}  # fmt: skip


def main_table(
    by_method: pd.DataFrame, paper: pd.DataFrame | None = None, *, families: Mapping[str, str] | None = None
) -> Table:
    """Table 1: methods x (zsRE eff/gen/spe, then eff/gen/spe/flu/consis of the others) after the last checkpoint.

    `by_method` is editing_by_method; `paper` is table1_main.csv, shown in brackets where it has the model and method.
    `families` names another family for a dataset than `layout.family_of` does.
    """
    datasets = sorted(by_method["dataset"].unique(), key=lambda name: (name != "zsre", name))
    shown = {dataset: (families or {}).get(dataset, family_of(dataset)) for dataset in datasets}
    columns: list[Column] = []
    for dataset in datasets:
        metrics = METRICS if dataset.startswith("zsre") else (*METRICS, *TEXT_METRICS)
        group = f"{dataset_label(dataset)} ({family_label(shown[dataset])})"
        columns += [Column(f"{dataset}_{metric}", SHORT[metric], group, "higher") for metric in metrics]
    last = last_checkpoint(by_method)
    rows = []
    for model in by_method["model"].unique():
        of_model = last[last["model"] == model]
        for method in ordered_methods(by_method.loc[by_method["model"] == model, "method"]):
            own = of_model[of_model["method"] == method]
            cells = {
                f"{dataset}_{metric}": _cell(own, dataset, metric, shown[dataset], _paper_row(paper, model, method))
                for dataset in datasets
                for metric in (*METRICS, *TEXT_METRICS)
            }
            rows.append(Row(model, method_label(method), cells, ranked=not is_anchor(method), group=group_of(method)))
    ends = {dataset: int(last.loc[last["dataset"] == dataset, "edits"].max()) for dataset in datasets}
    title = f"Editing after {' and '.join(f'{count:,} {dataset_label(name)}' for name, count in ends.items())} edits"
    notes = [
        "Percent, but fluency in bits x 100; mean over all edits made, and over seeds.",
        "Best in bold, second best underlined.",
        interval_note(last),
    ]
    if any(cell.paper == cell.paper for row in rows for cell in row.cells.values()):
        notes.append("In brackets: the paper's value after 15,000 edits (arXiv 2510.01172, Table 1).")
    return Table("table1", title, "Method", columns, rows, notes)


def family_table(by_method: pd.DataFrame, family: str) -> Table:
    """The layout of Table 1 with one family of metrics for every dataset; no paper values."""
    datasets = by_method.loc[by_method["metric_family"] == family, "dataset"].unique()
    kept = by_method[by_method["dataset"].isin(datasets)]
    table = main_table(kept, families={dataset: family for dataset in datasets})
    kept_columns = [column for column in table.columns if not column.key.endswith(TEXT_METRICS)]
    title = f"{table.title}, by {family_label(family)}" if len(kept) else f"No dataset has the family {family}"
    return Table(f"editing_{family}", title, table.stub, kept_columns, table.rows, table.notes if len(kept) else ())


def checkpoint_table(by_method: pd.DataFrame) -> Table:
    """The named family's metrics at every checkpoint: one section a model, dataset and checkpoint."""
    rows = []
    kept = by_method[by_method["edits"] > 0]
    for (model, dataset, edits), cell in kept.groupby(["model", "dataset", "edits"], sort=True):
        section = f"{model}, {dataset_label(str(dataset))} ({family_label(family_of(str(dataset)))}), {edits:,} edits"
        for method in ordered_methods(cell["method"]):
            own = cell[cell["method"] == method]
            cells = {metric: _cell(own, str(dataset), metric, family_of(str(dataset)), None)
                     for metric in (*METRICS, *TEXT_METRICS)}  # fmt: skip
            rows.append(Row(section, method_label(method), cells, group=group_of(method)))
    columns = [Column(metric, SHORT[metric], "", "higher") for metric in (*METRICS, *TEXT_METRICS)]
    notes = [
        "Percent, but fluency in bits x 100; mean over all edits made so far, and over seeds.",
        interval_note(kept),
    ]
    return Table("checkpoints", "Editing metrics along the edit stream", "Method", columns, rows, notes)


def plug_and_play_table(summary: pd.DataFrame, paper: pd.DataFrame | None = None) -> Table:
    """Each baseline, the same with the projection, and the gain, after the last checkpoint; paired by seed.

    `summary` is editing_summary; `paper` is table1_main.csv, of which AlphaEdit and SPHERE are such a pair.
    """
    columns = [
        Column(f"{metric}_{key}", header, metric.capitalize(), None, 1)
        for metric in METRICS
        for key, header in (("without", "without"), ("with", "with"), ("gain", "gain"))
    ]
    last = last_checkpoint(summary[~summary["method"].isin(ANCHORS)])
    rows = []
    for (model, dataset), place in last.groupby(["model", "dataset"], sort=False):
        family = family_of(str(dataset))
        own = place[place["metric_family"] == family]
        scores = 100 * own.pivot_table(index="seed", columns=["metric", "method"], values="mean")
        for base, projected in projected_pairs(own["method"]):
            printed = [_paper_row(paper, str(model), method) for method in (base, projected)]
            cells: dict[str, Cell] = {}
            for metric in METRICS:
                without, with_ = scores.get((metric, base)), scores.get((metric, projected))
                if without is None or with_ is None:
                    continue
                theirs = [_paper_value(row, str(dataset), metric, family) for row in printed]
                values = {"without": (without, theirs[0]), "with": (with_, theirs[1])}
                values["gain"] = (with_ - without, theirs[1] - theirs[0])
                for key, (by_seed, theirs_) in values.items():
                    interval = over_seeds(by_seed)
                    cells[f"{metric}_{key}"] = Cell(interval.mean, interval.half_width, theirs_)
            section = f"{model}, {dataset_label(str(dataset))} ({family_label(family)})"
            rows.append(Row(section, method_label(base), cells))
    seeds = summary.loc[~summary["method"].isin(ANCHORS), "seed"].nunique()
    notes = [
        "Percent after the last checkpoint; the gain, in points, is taken seed by seed. AlphaEdit with it is SPHERE.",
        f"± is the half-width of the 95 % interval: t over {seeds} seeds." if seeds > 1 else "One seed: no interval.",
    ]
    if any(cell.paper == cell.paper for row in rows for cell in row.cells.values()):
        notes.append("In brackets: the paper's value after 15,000 edits (arXiv 2510.01172, Table 1).")
    return Table("plug_and_play", "Every baseline without and with the projection", "Baseline", columns, rows, notes)


def interval_note(summary: pd.DataFrame) -> str:
    """One sentence that says what the ± of these rows is taken over."""
    kinds = [str(kind) for kind in summary["ci_kind"].dropna().unique() if kind != "none"]
    seeds = sorted({int(count) for count in summary.loc[summary["ci_kind"] == "t over seeds", "n_seeds"]})
    said = [f"t over {' or '.join(map(str, seeds))} seeds" if kind == "t over seeds" else kind for kind in kinds]
    return f"± is the half-width of the 95 % interval: {'; '.join(said)}." if said else "No interval: one value each."


def last_checkpoint(by_method: pd.DataFrame) -> pd.DataFrame:
    """The rows of each model and dataset at its last checkpoint, and those that no method edited."""
    ends = by_method.groupby(["model", "dataset"])["edits"].transform("max")
    return by_method[(by_method["edits"] == ends) | by_method["method"].isin(ANCHORS)]


def _cell(own: pd.DataFrame, dataset: str, metric: str, family: str, paper: pd.Series | None) -> Cell:
    wanted = TEXT_FAMILY if metric in TEXT_METRICS else family
    found = own[(own["dataset"] == dataset) & (own["metric"] == metric) & (own["metric_family"] == wanted)]
    scale = 1.0 if metric == "fluency" else 100.0
    value, half = nan, nan
    if len(found):
        value = scale * float(found["mean"].iloc[0])
        half = scale * float(found["ci_high"].iloc[0] - found["ci_low"].iloc[0]) / 2
    return Cell(value, half, _paper_value(paper, dataset, metric, family))


def _paper_row(paper: pd.DataFrame | None, model: str, method: str) -> pd.Series | None:
    if paper is None or (known := paper_name(model, paper["model"])) is None:
        return None
    row = paper[(paper["model"] == known) & (paper["method"] == method_label(method))]
    return row.iloc[0] if len(row) else None


def _paper_value(paper: pd.Series | None, dataset: str, metric: str, family: str) -> float:
    """The paper's number for the same dataset and family of metrics; NaN where it has none."""
    if paper is None or dataset not in PAPER_PREFIX or family != family_of(dataset):
        return nan
    return float(paper.get(f"{PAPER_PREFIX[dataset]}_{PAPER_SUFFIX[metric]}", nan))


def read_paper(published: Path | None, name: str) -> pd.DataFrame | None:
    """One of config/published/*.csv, or None where no such folder is given."""
    return None if published is None else read_published(published, name)
