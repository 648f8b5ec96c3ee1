"""Tables of everything that is not an editing metric: run time, general ability, energy and its correlations."""

from __future__ import annotations

from math import floor, log10, nan
from typing import Any

import numpy as np
import pandas as pd

from sphere.config.names import PRE_EDITED
from sphere.report.tables.editing import interval_note
from sphere.report.tables.intervals import Interval, over_seeds
from sphere.report.tables.layout import (
    BITS,
    METRICS,
    ability_label,
    base_of,
    dataset_label,
    group_of,
    method_label,
    ordered_methods,
    paper_name,
)
from sphere.report.tables.render import Cell, Column, Row, Table
from sphere.report.tables.trajectories import (
    FASTER,
    FIRST,
    RUN,
    early_warnings,
    energy_by_batch,
    energy_correlations,
    largest_changes,
    trajectories,
    typical_change,
    weight_paths,
)

PAPER_MODELS = ("LLaMA3-8B", "Qwen2.5-7B", "Qwen2.5-32B")
PROJECTION_PHASE = "projection"
MEASURING_PHASES = ("energy",)  # time spent measuring is no part of an edit


def batch_seconds(timing: pd.DataFrame) -> pd.DataFrame:
    """One row a stream: RUN, edit_s (mean seconds of a batch, projection included), projection_s, ratio_percent.

    The ratio is of the summed seconds. Every phase is part of an edit, the other post-processes' too, but those that
    measure (`MEASURING_PHASES`). Batch 0, the state before any edit, is left out.
    """
    rows: list[dict[str, Any]] = []
    kept = timing[~timing["phase"].isin(MEASURING_PHASES) & (timing["batch"] > 0)]
    for key, run in kept.groupby(list(RUN), sort=False, dropna=False):
        batches = len(run[["edits", "batch"]].drop_duplicates())
        spent = float(run["seconds"].sum())
        projecting = float(run.loc[run["phase"] == PROJECTION_PHASE, "seconds"].sum())
        ratio = 100 * projecting / spent if spent > 0 else nan
        rows.append(
            {**dict(zip(RUN, key, strict=True)), "edit_s": spent / batches, "projection_s": projecting / batches,
             "ratio_percent": ratio}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=[*RUN, "edit_s", "projection_s", "ratio_percent"])


def runtime_table(timing: pd.DataFrame, paper: pd.DataFrame | None = None) -> Table:
    """Table 2: wall seconds of a batch of edits, of the projection in it, and the ratio; mean over streams."""
    columns = [
        Column("edit_s", "Edit (s)", "", "lower", 3),
        Column("projection_s", "Projection (s)", "", None, 3),
        Column("ratio_percent", "Ratio (%)", "", None, 2),
    ]
    streams = batch_seconds(timing)
    rows = []
    for model in streams["model"].unique():
        of_model = streams[streams["model"] == model]
        known = paper_name(model, paper["model"]) if paper is not None else None
        for method in ordered_methods(of_model["method"]):
            own = of_model[of_model["method"] == method]
            by_seed = own.groupby("seed")[["edit_s", "projection_s", "ratio_percent"]].mean()
            projects = base_of(method) is not None
            cells = {}
            for column in columns:
                if not projects and column.key != "edit_s":
                    continue
                printed = nan
                if paper is not None and known is not None and method_label(method) == "SPHERE":
                    printed = float(paper.loc[paper["model"] == known, column.key].iloc[0])
                cells[column.key] = _seed_cell(by_seed[column.key], printed)
            rows.append(Row(model, method_label(method), cells, group=group_of(method)))
    notes = ["Wall seconds of one batch, mean over the batches of every stream; they depend on the machine."]
    notes += [seeds_note(streams)]
    if any(cell.paper == cell.paper for row in rows for cell in row.cells.values()):
        notes.append("In brackets: the paper's value for a batch of 100 edits (arXiv 2510.01172, Table 2).")
    return Table("runtime", "Run time of one batch of edits", "Method", columns, rows, notes)


def ability_table(by_method: pd.DataFrame) -> Table:
    """General ability after the last checkpoint, one column a task family; one section a model and dataset."""
    bits = in_bits(by_method)
    columns = [
        Column(family, label, "", "lower", 3) if family in bits else Column(family, label, "", "higher")
        for family, label in ability_labels(by_method).items()
    ]
    rows = []
    for (model, dataset), cell in by_method.groupby(["model", "dataset"], sort=False):
        last = int(cell["edits"].max())
        section = f"{model}, after {last:,} {dataset_label(str(dataset))} edits"
        for method in ordered_methods(cell["method"]):
            own = cell[(cell["method"] == method) & ((cell["edits"] == last) | (method == PRE_EDITED))]
            cells = {}
            for row in own.to_dict("records"):
                scale = 1 if row["family"] in bits else 100
                cells[str(row["family"])] = Cell(scale * row["mean"], scale * (row["ci_high"] - row["ci_low"]) / 2)
            rows.append(Row(section, method_label(method), cells, method != PRE_EDITED, group=group_of(method)))
    notes = ["Percent, lm-evaluation-harness; not comparable with the paper's curves, which used its own prompts."]
    if bits:
        notes.append("Bits a byte: -log2 P of passages of text over their bytes in UTF-8; lower is better.")
    return Table("general_ability", "General ability after the edit stream", "Method", columns, rows,
                 [*notes, interval_note(by_method)])  # fmt: skip


def in_bits(by_method: pd.DataFrame) -> set[str]:
    """The families whose score is no share but bits a byte."""
    return set(by_method.loc[by_method["unit"] == BITS, "family"])


def ability_labels(by_method: pd.DataFrame) -> dict[str, str]:
    """Task family -> what it is called, with its unit if that is not percent, in the order of print."""
    bits = in_bits(by_method)
    ordered = sorted(by_method["family"].unique(), key=lambda family: (family in bits, _rank(family)))
    return {family: ability_label(family) + ", bits a byte" * (family in bits) for family in ordered}


def _rank(family: str) -> tuple[int, str]:
    order = ["Reasoning", "NLI", "Open-domain QA", "Closed-domain QA"]
    label = ability_label(family)
    return (order.index(label) if label in order else len(order), label)


def energy_table(energy: pd.DataFrame) -> Table:
    """Hyperspherical energy after the last batch against the pretrained weights, over the edited layers."""
    batches = energy_by_batch(energy)
    shown = _decimals(batches)
    columns = [
        Column("he_change", "HE change (%)", "", None, shown),
        Column("he_path", "HE path (%)", "", "lower", shown),
        Column("largest_step", "Largest step (%)", "", "lower", shown),
        Column("update_ratio", "||ΔW|| / ||W||", "", None, 4),
        Column("weight_path", "Σ ||ΔW|| / ||W||", "", "lower", 2),
    ]
    ratios = _largest_update(energy)
    paths = weight_paths(energy).set_index(list(RUN))["weight_path"]
    rows = []
    for (model, dataset), cell in batches.groupby(["model", "dataset"], sort=False):
        for method in ordered_methods(cell["method"]):
            key = (str(model), str(dataset), method)
            runs = cell[cell["method"] == method].groupby("seed")
            steps = {seed: run["step"].abs() for seed, run in runs}
            cells = {
                "he_change": _seed_cell(pd.Series([run["he_change"].iloc[-1] for _, run in runs])),
                "he_path": _seed_cell(pd.Series([step.sum(min_count=1) for step in steps.values()])),
                "largest_step": _seed_cell(pd.Series([step.max() for step in steps.values()])),
                "update_ratio": _seed_cell(ratios.get(key, pd.Series(dtype=float))),
                "weight_path": _seed_cell(pd.Series([paths.get((model, dataset, method, s), nan) for s in steps])),
            }
            section = f"{model}, {dataset_label(str(dataset))}"
            rows.append(Row(section, method_label(method), cells, group=group_of(method)))
    notes = [
        "HE: mean over ordered pairs of neurons, averaged over the edited layers; percent of its pretrained value.",
        "Path: sum of the absolute changes from one recorded batch to the next. ||ΔW|| / ||W||: largest of any batch.",
        "Σ ||ΔW|| / ||W||: the same of the weights, summed over the recorded batches, mean over layers.",
        seeds_note(batches),
    ]
    return Table("energy", "Hyperspherical energy over the edit stream", "Method", columns, rows, notes)


def _decimals(batches: pd.DataFrame) -> int:
    """Decimals that show what most methods move the energy by to two digits and one more, at least 3.

    HE may move by 1e-5, and one method among many by 5: of each method's largest change the median decides.
    """
    typical = typical_change(largest_changes(batches))
    return 3 if np.isnan(typical) else max(3, 2 - floor(log10(typical)))


def _largest_update(energy: pd.DataFrame) -> dict[tuple[str, str, str], pd.Series]:
    """{(model, dataset, method): by seed, the largest ||dW|| / ||W|| of any batch and layer}."""
    if not {"update_norm", "weight_norm"} <= set(energy.columns):
        return {}
    ratio = energy.assign(ratio=energy["update_norm"] / energy["weight_norm"])
    largest = ratio.groupby(list(RUN))["ratio"].max().reset_index()
    return {
        (str(model), str(dataset), str(method)): own.set_index("seed")["ratio"]
        for (model, dataset, method), own in largest.groupby(["model", "dataset", "method"])
    }


def spearman_table(editing: pd.DataFrame, energy: pd.DataFrame, paper: pd.DataFrame | None = None) -> Table:
    """Figure 1's numbers: r_s of HE and each metric over the checkpoints, mean over seeds; the paper's in brackets.

    The published file names neither model nor dataset: its values stand beside any model of the paper, and a note
    says so.
    """
    columns = []
    for metric in METRICS:
        group = metric.capitalize()
        columns += [Column(f"{metric}_r", "r_s", group, None, 2), Column(f"{metric}_p", "p", group, None, 3)]
    found = energy_correlations(trajectories(editing, energy))
    rows = []
    for (model, dataset), cell in found.groupby(["model", "dataset"], sort=False):
        beside = paper is not None and paper_name(str(model), PAPER_MODELS) is not None
        for method in ordered_methods(cell["method"]):
            cells: dict[str, Cell] = {}
            for metric in METRICS:
                own = cell[(cell["method"] == method) & (cell["metric"] == metric)]
                r = over_seeds(own["r"])
                p = float(own["p"].iloc[0]) if len(own) == 1 else nan
                printed = _paper_spearman(paper, method, metric) if beside else (nan, nan)
                cells[f"{metric}_r"] = Cell(r.mean, r.half_width, printed[0])
                cells[f"{metric}_p"] = Cell(p, nan, printed[1])
            section = f"{model}, {dataset_label(str(dataset))}"
            rows.append(Row(section, method_label(method), cells, group=group_of(method)))
    points = sorted({int(n) for n in found["n"] if n})
    over = f"over {' or '.join(map(str, points))} checkpoints" if points else "over no checkpoint"
    notes = [
        f"Spearman's r_s between mean HE and the metric {over}, mean over seeds; two-sided p, given for one seed only.",
        seeds_note(found),
    ]
    if any(cell.paper == cell.paper for row in rows for cell in row.cells.values()):
        notes.append(
            "In brackets: the paper's value over 5,000 edits (arXiv 2510.01172, Figure 1), "
            "as published without the name of the model and dataset."
        )
    title = "Rank correlation of hyperspherical energy with each metric"
    return Table("spearman", title, "Method", columns, rows, notes)


def _paper_spearman(paper: pd.DataFrame | None, method: str, metric: str) -> tuple[float, float]:
    row = paper[paper["method"] == method_label(method)] if paper is not None else pd.DataFrame()
    return (float(row[f"{metric}_r"].iloc[0]), float(row[f"{metric}_p"].iloc[0])) if len(row) else (nan, nan)


def warning_table(editing: pd.DataFrame, energy: pd.DataFrame) -> Table:
    """HE as an early warning: edits at which its pace rose, at which efficacy had halved, and the lead.

    Beside them in how many seeds each happened: HE that rose where efficacy did not halve is a false alarm, a halving
    that no warning came before is missed.
    """
    columns = [
        Column("warning_edits", f"HE moved {FASTER:g} x as fast (edits)", "", None, 0),
        Column("collapse_edits", "Efficacy halved (edits)", "", None, 0),
        Column("lead_edits", "Lead (edits)", "", None, 0),
        Column("warned", "HE moved faster", "Seeds where", None, 0),
        Column("collapsed", "efficacy halved", "Seeds where", None, 0),
        Column("both", "both", "Seeds where", None, 0),
        Column("false_alarms", "false alarm", "Seeds where", "lower", 0),
        Column("missed", "missed", "Seeds where", "lower", 0),
        Column("seeds", "Seeds", "", None, 0),
    ]
    found = early_warnings(trajectories(editing, energy), energy_by_batch(energy))
    rows = []
    for (model, dataset), cell in found.groupby(["model", "dataset"], sort=False):
        for method in ordered_methods(cell["method"]):
            own = cell[cell["method"] == method]
            cells = {"seeds": Cell(len(own))}
            for key, count in (("warning_edits", "warned"), ("collapse_edits", "collapsed"), ("lead_edits", "both")):
                cells |= {key: _seed_cell(own[key]), count: Cell(int(own[key].notna().sum()))}
            warned, fell = own["warning_edits"], own["collapse_edits"]
            cells["false_alarms"] = Cell(int((warned.notna() & fell.isna()).sum()))
            cells["missed"] = Cell(int((fell.notna() & ~(warned < fell)).sum()))
            section = f"{model}, {dataset_label(str(dataset))}"
            rows.append(Row(section, method_label(method), cells, group=group_of(method)))
    notes = [
        f"HE moved {FASTER:g} x as fast: the first batch that moves HE so many times as much as the first {FIRST} "
        "recorded batches did on average. Edits: mean over the seeds in which it happened, – where it did not; the "
        "lead over those in which both did. Collapse is seen at checkpoints only.",
        "False alarm: HE moved faster and efficacy did not halve within the stream. Missed: efficacy halved and HE had "
        f"not moved faster before. {_alarms(found)}",
    ]
    return Table("early_warning", "Energy change and collapse", "Method", columns, rows, notes)


def _alarms(found: pd.DataFrame) -> str:
    """What warnings were worth, over every stream of ``early_warnings``."""
    warned, fell, ahead = (int(known.sum()) for known in (
        found["warning_edits"].notna(), found["collapse_edits"].notna(), found["lead_edits"] > 0
    ))  # fmt: skip
    said = f"Of all {len(found)} streams HE moved faster in {warned} and efficacy halved in {fell}"
    return f"{said}; in {ahead} HE came first."


def skipped_table(skipped: pd.DataFrame) -> Table:
    """How many records of each dataset no stream edits, by reason; a seed changes only the order of the others."""
    rows = []
    for dataset, found in skipped.groupby("dataset", sort=False):
        for line in found[found["seed"] == found["seed"].min()].to_dict("records"):
            cells = {"records": Cell(float(line["records"]))}
            rows.append(Row(f"every model, {dataset_label(str(dataset))}", str(line["reason"]), cells))
    notes = ["Records of the whole dataset; streams/DATASET/seedS_skipped.csv, in the study's results, names each."]
    notes += [] if rows else ["Every record can be edited."]
    columns = [Column("records", "Records", "", None, 0)]
    return Table("skipped", "Records that are not edited", "Reason", columns, rows, notes)


def tuning_table(tuning: pd.DataFrame) -> Table:
    """Every setting that tuning tried, with its score on held-out edits; numeric columns as they stand."""
    names = ["model", "method", "trial"]
    numeric = [c for c in tuning.columns if c not in names and pd.api.types.is_numeric_dtype(tuning[c])]
    columns = [Column(key, key, "", "higher" if key == "score" else None, 4) for key in numeric]
    rows = []
    for line in tuning.to_dict("records"):
        cells = {key: Cell(float(line[key])) for key in numeric if line[key] == line[key]}
        trial = f"trial {line['trial']:g}" if line["trial"] == line["trial"] else "trial"
        rows.append(Row(f"{line['model']}, {method_label(str(line['method']))}", trial, cells))
    notes = ["Score on held-out edits: higher is better."]
    return Table("tuning", "Settings tried on held-out edits", "Trial", columns, rows, notes)


def sensitivity_table(tried: pd.DataFrame, paper: pd.DataFrame | None = None) -> Table:
    """Efficacy, one row an eta and one column an alpha; the paper's beside a model of the paper.

    `paper` is sensitivity.csv, whose values are of one model and stream that it does not name.
    """
    columns = [Column(f"alpha_{alpha:g}", f"α = {alpha:g}") for alpha in sorted(tried["alpha"].unique())]
    rows = []
    for (model, method), own in tried.groupby(["model", "method"], sort=False):
        beside = paper if paper is not None and paper_name(str(model), PAPER_MODELS) else None
        for eta, line in own.groupby("eta"):
            cells = {
                f"alpha_{alpha:g}": Cell(100 * float(value), nan, _paper_sensitivity(beside, eta, alpha))
                for alpha, value in line.groupby("alpha")["efficacy"].mean().items()
            }
            rows.append(Row(f"{model}, {method_label(str(method))}", f"η = {eta:g}", cells))
    notes = [
        "Efficacy in percent after the last edit: of held-out records (accuracy family), one stream a cell, or, where "
        "the study has the pairs among its methods, of its first dataset, mean over seeds."
    ]
    if any(cell.paper == cell.paper for row in rows for cell in row.cells.values()):
        notes.append("In brackets: the paper's value (arXiv 2510.01172).")
    return Table("sensitivity", "Efficacy over the cumulative ratio η and the suppression strength α", "η", columns,
                 rows, notes)  # fmt: skip


def _paper_sensitivity(paper: pd.DataFrame | None, eta: Any, alpha: Any) -> float:
    if paper is None:
        return nan
    found = paper[(paper["eta"] == eta) & (paper["alpha"] == alpha)]
    return float(found["efficacy"].iloc[0]) if len(found) else nan


def _seed_cell(values: pd.Series, paper: float = nan) -> Cell:
    interval: Interval = over_seeds(values)
    return Cell(interval.mean, interval.half_width, paper)


def seeds_note(frame: pd.DataFrame) -> str:
    count = frame["seed"].nunique()
    return f"± is the half-width of the 95 % interval: t over {count} seeds." if count > 1 else "One seed: no interval."
