"""Table of what a method costs: operations and seconds an edit, peak memory, and the size of what it keeps."""

from __future__ import annotations

import pandas as pd

from sphere.report.tables.intervals import over_seeds
from sphere.report.tables.layout import method_label, ordered_methods
from sphere.report.tables.render import Cell, Column, Row, Table
from sphere.report.tables.stream import MEASURING_PHASES, seeds_note
from sphere.report.tables.trajectories import RUN

GIB, MIB = 2**30, 2**20
COST_METRICS = ("edit_operations", "edit_s", "peak_memory", "peak_device_memory", "weights", "kept")


def cost_by_stream(timing: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """One row a stream: RUN, edit_operations (10^9 an edit) and edit_s (wall seconds an edit), measuring left out, and
    of its segments the largest peaks (GiB) and the last segment's weights and kept (MiB).

    `timing` is timing_summary and `cost` cost_summary.
    """
    spent = timing[~timing["phase"].isin(MEASURING_PHASES) & (timing["batch"] > 0)].groupby(list(RUN), sort=False)
    found = pd.DataFrame({"edit_s": spent["seconds"].sum() / spent["edits"].max()})
    segments = cost.sort_values("edits").groupby(list(RUN), sort=False)
    found = found.join(_operations(cost), how="outer")
    found = found.join(segments[["peak_memory", "peak_device_memory"]].max() / GIB, how="outer")
    return found.join(segments[["weights", "kept"]].last() / MIB, how="outer").reset_index()


def _operations(cost: pd.DataFrame) -> pd.Series:
    """10^9 operations an edit by stream: a mean over its segments, each by the edits made in it."""
    segments = cost.sort_values("edits")
    segments["made"] = segments["edits"] - segments.groupby(list(RUN))["edits"].shift(fill_value=0)
    segments = segments[segments["operations"].notna()]
    segments["weighted"] = segments["operations"] * segments["made"] / 1e9
    sums = segments.groupby(list(RUN))[["weighted", "made"]].sum()
    return (sums["weighted"] / sums["made"]).rename("edit_operations")


def cost_table(timing: pd.DataFrame, cost: pd.DataFrame) -> Table:
    """Cost by method, mean over datasets and then over seeds; one section a model."""
    columns = [
        Column("edit_operations", "Operations an edit (10^9)", "", "lower", 1),
        Column("edit_s", "Seconds an edit", "", "lower", 3),
        Column("peak_memory", "main (GiB)", "Peak memory", "lower", 2),
        Column("peak_device_memory", "GPU (GiB)", "Peak memory", "lower", 2),
        Column("weights", "edited weights (MiB)", "Kept", None, 1),
        Column("kept", "beside them (MiB)", "Kept", "lower", 1),
    ]
    streams = cost_by_stream(timing, cost)
    rows = []
    for model in streams["model"].unique():
        of_model = streams[streams["model"] == model]
        for method in ordered_methods(of_model["method"]):
            by_seed = of_model[of_model["method"] == method].groupby("seed")[[c.key for c in columns]].mean()
            intervals = {column.key: over_seeds(by_seed[column.key]) for column in columns}
            cells = {key: Cell(interval.mean, interval.half_width) for key, interval in intervals.items()}
            rows.append(Row(str(model), method_label(method), cells))
    notes = [
        "Floating-point operations (products of matrices, attention and factorizations, counted as they run) of the "
        "first batch of each job that edited over its edits, and wall seconds of all batches over the edits made; "
        "target values that a study finds once on the unedited model, for all methods (values.weights: pretrained), "
        "are not among them. Operations hardly depend on the machine; seconds and memory do.",
        "Peak memory: of the process that edits, model and libraries included; GPU: what tensors held of it. Kept "
        "beside the edited weights: what the next batch needs.",
        seeds_note(streams),
    ]
    return Table("cost", "What a method costs", "Method", columns, rows, notes)
