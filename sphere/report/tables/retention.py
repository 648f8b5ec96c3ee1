"""Retention by age: what edits held at their own first checkpoint, and what is left of it at the last one.

Edits are taken in cohorts, in the order in which they were made. Nothing is measured for this: the rows are those of
the streams' editing.csv.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sphere.config.names import STREAM
from sphere.report.tables.intervals import OVER_RECORDS, from_stderr, over_seeds
from sphere.report.tables.layout import METRICS, dataset_label, family_label, family_of, method_label, ordered_methods
from sphere.report.tables.render import Cell, Column, Row, Table
from sphere.report.tables.stream import seeds_note

COHORT = 100
"""Edits of a cohort; streams too short for ``COHORTS`` of them have that many smaller ones."""
COHORTS = 5
COLUMNS = (
    *STREAM, "metric_family", "metric", "cohort", "size", "first", "last", "n", "now", "now_stderr", "n_now"
)  # fmt: skip


def cohort_size(edits: int) -> int:
    """How many edits a cohort of a stream of ``edits`` has."""
    return min(COHORT, -(-edits // COHORTS))


def retention_rows(checkpoints: Mapping[int, pd.DataFrame], names: Mapping[str, Any]) -> pd.DataFrame:
    """One row a cohort and metric of the dataset's family: the mean of its records when first evaluated, and at last.

    ``checkpoints`` maps the edits made to editing.csv there. Of records that were evaluated at both, `n` of them, there
    are `first` and `last`; of all that were evaluated at the end `now`. No rows where the stream did not come to its
    last checkpoint.
    """
    edits = max(checkpoints)
    last = checkpoints[edits]
    if last.empty:
        return pd.DataFrame()
    place = np.arange(len(last)) * edits // len(last)  # with evaluate_records, some are taken, evenly spread
    evaluated = np.array(sorted(checkpoints))
    born = evaluated[np.searchsorted(evaluated, place, side="right")]  # the first checkpoint with the edit
    early = {k: frame.set_index("case_id") for k, frame in checkpoints.items() if not frame.empty}
    size, family = cohort_size(edits), family_of(str(names["dataset"]))
    rows = []
    for metric in METRICS:
        column = f"{family}_{metric}"
        if column not in last:
            continue
        first = [
            early[k][column].get(case, np.nan) if k in early and column in early[k] else np.nan
            for case, k in zip(last["case_id"], born, strict=True)
        ]
        asked = pd.DataFrame({"first": first, "last": last[column], "cohort": place // size * size})
        for cohort, own in asked.dropna(subset=["last"]).groupby("cohort"):
            found = {"metric_family": family, "metric": metric, "cohort": cohort, "size": size}
            both = own.dropna()
            found |= {**both[["first", "last"]].mean(), "n": len(both)}
            found |= {"now": own["last"].mean(), "now_stderr": own["last"].sem(), "n_now": len(own)}
            rows.append({**names, "edits": edits, **found})
    return pd.DataFrame(rows)


def retention_curve(retention: pd.DataFrame) -> pd.DataFrame:
    """What is left at the last checkpoint: columns of editing_by_method, ``edits`` where a cohort ends.

    Over seeds, of one seed over records.
    """
    rows = []
    cell = ["model", "dataset", "method", "metric_family", "metric", "cohort", "size"]
    for key, own in retention.groupby(cell, sort=False):
        found: dict[str, Any] = dict(zip(cell, key, strict=True))
        interval = over_seeds(own["now"])
        if len(own) == 1:
            error, n = own[["now_stderr", "n_now"]].iloc[0]
            interval = from_stderr(interval.mean, float(error), int(n), OVER_RECORDS)
        found |= {"mean": interval.mean, "ci_low": interval.low, "ci_high": interval.high, "ci_kind": interval.kind}
        rows.append({**found, "edits": found["cohort"] + found["size"]})
    return pd.DataFrame(rows, columns=[*cell, "edits", "mean", "ci_low", "ci_high", "ci_kind"])


def retention_table(retention: pd.DataFrame) -> Table:
    """The first and the last cohort, and the area under the curve by cohort; one section a metric."""
    columns = [
        Column("first_then", "then", "First cohort", None),
        Column("first_now", "now", "First cohort", "higher"),
        Column("last_now", "now", "Last cohort", "higher"),
        Column("area", "Area", "", "higher"),
    ]
    rows = []
    places = ["model", "dataset", "metric_family", "metric", "size"]
    for (model, dataset, family, metric, size), place in retention.groupby(places, sort=False):
        section = f"{model}, {dataset_label(str(dataset))} ({family_label(str(family))}), {metric}, cohorts of {size}"
        for method in ordered_methods(place["method"]):
            seeds = [run.sort_values("cohort") for _, run in place[place["method"] == method].groupby("seed")]
            values = {
                "first_then": [run["first"].iloc[0] for run in seeds],
                "first_now": [run["last"].iloc[0] for run in seeds],
                "last_now": [run["now"].iloc[-1] for run in seeds],
                "area": [run["now"].mean() for run in seeds],
            }
            intervals = {key: over_seeds([100 * value for value in own]) for key, own in values.items()}
            cells = {key: Cell(interval.mean, interval.half_width) for key, interval in intervals.items()}
            rows.append(Row(section, method_label(method), cells))
    notes = [
        "Percent. Then: at the edits' own first checkpoint; now: at the last. First cohort: the records evaluated at "
        "both. Area: mean over cohorts of what holds now, the area under the curve by cohort over its width.",
        seeds_note(retention),
    ]
    return Table("retention", "Retention by age of the edit", "Method", columns, rows, notes)
