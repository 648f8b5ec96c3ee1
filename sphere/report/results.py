"""One tidy table of everything a study measured, for questions that no table here answers: results.parquet.

import pandas as pd
results = pd.read_parquet("results/smollm2/results.parquet")
strict = results.query("metric == 'efficacy' and family == 'strict'")
strict.pivot_table(index="edits", columns="method", values="value")
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sphere.config.names import STREAM
from sphere.files import write_atomically
from sphere.report.tables.cost import COST_METRICS, cost_by_stream
from sphere.report.tables.intervals import stderr_of
from sphere.report.tables.summaries import load
from sphere.report.tables.trajectories import energy_by_batch

COLUMNS = ("study", *STREAM, "metric", "family", "value", "stderr", "n")
ENERGY, COST, NEUTRAL = "energy", "cost", "neutral"
"""Families of what is no metric of edits and no task."""


def write_results(tables: Path, out: Path, *, study: str) -> None:
    """Write the gathered ``tables`` of ``study`` as one tidy Parquet file: one row a stream, checkpoint and metric."""
    rows = pd.concat([frame for frame in _parts(tables) if len(frame)], ignore_index=True).assign(study=study)
    whole = rows.reindex(columns=list(COLUMNS))
    whole = whole.astype({"seed": "Int64", "edits": "int64", "n": "Int64", "value": "float64", "stderr": "float64"})
    with write_atomically(out) as path:
        whole.to_parquet(path, index=False)


def _parts(tables: Path) -> Iterator[pd.DataFrame]:
    """Rows of the columns ``COLUMNS``, as far as they have them."""
    editing = load(tables, "editing_summary").rename(columns={"metric_family": "family", "mean": "value"})
    yield editing.assign(stderr=stderr_of(editing["ci_low"], editing["ci_high"]))
    ability = load(tables, "general_ability_summary")
    yield ability.assign(metric=ability["task"] + "/" + ability["metric"])
    yield load(tables, "neutral_summary").assign(family=NEUTRAL)
    energy = energy_by_batch(load(tables, "energy_summary")).rename(columns={"he": "he_mean"})
    evaluated = editing[["model", "dataset", "method", "seed", "edits"]].drop_duplicates()
    yield _long(energy.merge(evaluated), ["he_mean", "he_change"], ENERGY)
    cost = cost_by_stream(load(tables, "timing_summary"), load(tables, "cost_summary"))
    ends = evaluated.groupby(list(STREAM[:4]), as_index=False)["edits"].max()
    yield _long(cost.merge(ends), list(COST_METRICS), COST)


def _long(frame: pd.DataFrame, metrics: list[str], family: str) -> pd.DataFrame:
    """The columns ``metrics`` of ``frame`` as rows, those without a number left out."""
    return frame.melt([*STREAM], metrics, "metric", "value").dropna(subset="value").assign(family=family)
