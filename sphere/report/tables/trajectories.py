"""Hyperspherical energy beside the editing metrics along the stream: what Figures 1, 2 and the claims start from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

from sphere.config.names import STREAM
from sphere.report.tables.intervals import over_seeds, spearman
from sphere.report.tables.layout import ANCHORS, METRICS, family_of

RUN = ("model", "dataset", "method", "seed")
FEWEST_CHECKPOINTS = 5
"""Of r_s: chance gives a perfect order of four points in 2 of 24 orders (p = 0.08), of five in 2 of 120 (0.017)."""


def energy_by_batch(energy: pd.DataFrame) -> pd.DataFrame:
    """One row a stream and batch: RUN, edits, batch, he, he_change, step.

    he         HE mean over ordered pairs of neurons, averaged over the edited layers (dimensionless)
    he_change  percent of the pretrained weights' HE; NaN where the stream has no batch-0 row
    step       percent of the pretrained HE that this batch moved it, signed, since the recorded batch before
    """
    columns = [*RUN, "edits", "batch", "he", "he_change", "step"]
    if energy.empty:
        return pd.DataFrame(columns=columns).astype({column: float for column in columns[3:]})
    measured = energy[energy["he_mean"].notna()]
    by_batch = measured.groupby([*RUN, "edits", "batch"], dropna=False, sort=False)["he_mean"].mean()
    frame = by_batch.rename("he").reset_index().sort_values([*RUN, "edits", "batch"], kind="stable")
    runs = frame.groupby(list(RUN), dropna=False)
    start = runs["he"].transform("first").where(runs["edits"].transform("first") == 0)
    with np.errstate(invalid="ignore"):  # an infinite HE (coincident neurons) has no finite change
        frame["he_change"] = 100 * (frame["he"] - start) / start
        frame["step"] = 100 * (frame["he"] - runs["he"].shift()) / start
    return frame[columns].reset_index(drop=True)


def at_last_checkpoint(paths: pd.DataFrame) -> pd.DataFrame:
    """Rows of each model and dataset at its last checkpoint."""
    if paths.empty:
        return paths
    return paths[paths["edits"] == paths.groupby(["model", "dataset"])["edits"].transform("max")]


def energy_paths(batches: pd.DataFrame) -> pd.DataFrame:
    """How far each stream moved its energy, back and forth: RUN and he_path, in percent, from ``energy_by_batch``."""
    steps_taken = batches.assign(step=batches["step"].abs()).groupby(list(RUN))["step"]
    return steps_taken.sum(min_count=1).rename("he_path").reset_index()


def weight_paths(energy: pd.DataFrame) -> pd.DataFrame:
    """How far each stream moved its weights, back and forth: RUN and weight_path, where ``weights_by_batch`` ends."""
    return weights_by_batch(energy).groupby(list(RUN)).tail(1)[[*RUN, "weight_path"]].reset_index(drop=True)


def weights_by_batch(energy: pd.DataFrame) -> pd.DataFrame:
    """One row a stream and recorded batch: RUN, edits, weight_path.

    weight_path is the sum so far of ||dW|| / ||W||, averaged over the edited layers: beside the path of HE, what HE is
    to tell more than. A row has its own batch's update alone, so that it is NaN from the first batch on that was not
    recorded (``energy_every``) or has none.
    """
    columns = [*RUN, "edits", "weight_path"]
    if not {"update_norm", "weight_norm"} <= set(energy.columns):
        return pd.DataFrame(columns=columns)
    moved = energy[energy["batch"] > 0]
    moved = moved.assign(weight_path=moved["update_norm"] / moved["weight_norm"])
    found = moved.groupby([*RUN, "batch", "edits"])["weight_path"].mean().reset_index()
    runs = found.groupby(list(RUN))
    whole = found["weight_path"].notna() & (found["batch"] == runs.cumcount() + 1)
    known = whole.groupby([found[key] for key in RUN]).cummin()
    found["weight_path"] = runs["weight_path"].cumsum().where(known)
    return found[columns]


def largest_changes(moved: pd.DataFrame) -> pd.Series:
    """Method -> the largest |he_change| of any of its rows, in percent."""
    return moved["he_change"].astype(float).abs().groupby(moved["method"]).max()


def typical_change(largest: pd.Series) -> float:
    """What most methods move HE by: the median of ``largest_changes``, without those that are 0 or infinite; or NaN."""
    return float(largest[np.isfinite(largest) & (largest > 0)].median())


def trajectories(
    editing: pd.DataFrame, energy: pd.DataFrame, *, families: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """One row a stream and checkpoint: RUN, edits, he, he_change, weight_path, metrics of the dataset's family in %.

    `families` names another family for a dataset than `layout.family_of` does. A checkpoint without editing metrics
    or without energy keeps NaN there. The pre-edited model is not among the streams.
    """
    scores = _scores(editing[~editing["method"].isin(ANCHORS)], families or {})
    batches = energy_by_batch(energy)
    ends = batches.drop_duplicates([*RUN, "edits"], keep="last")[[*RUN, "edits", "he", "he_change"]]
    ends = ends[ends["edits"] > 0]
    walked = weights_by_batch(energy).drop_duplicates(list(STREAM), keep="last")
    joined = ends.merge(walked, on=list(STREAM), how="left").merge(scores, on=list(STREAM), how="outer")
    # energy is recorded every few batches: only the batches at which records were evaluated are checkpoints
    if not scores.empty:
        checkpoints = scores[list(STREAM)].drop_duplicates()
        joined = joined.merge(checkpoints, on=list(STREAM), how="inner")
    values = ("he", "he_change", "weight_path", *METRICS)
    joined = joined.reindex(columns=[*STREAM, *values]).astype({value: float for value in values})
    return joined.sort_values(list(STREAM), kind="stable").reset_index(drop=True)


def _scores(editing: pd.DataFrame, families: Mapping[str, str]) -> pd.DataFrame:
    wanted = [families.get(dataset, family_of(dataset)) for dataset in editing["dataset"]]
    kept = editing[(editing["metric_family"] == wanted) & editing["metric"].isin(METRICS)]
    wide = kept.pivot_table(index=list(STREAM), columns="metric", values="mean", sort=False)
    return (100 * wide).reset_index().rename_axis(columns=None) if len(kept) else pd.DataFrame(columns=list(STREAM))


def seed_means(frame: pd.DataFrame, keys: Iterable[str], values: Iterable[str]) -> pd.DataFrame:
    """For each key and value column: its mean over seeds as `{value}`, the interval as `{value}_low` and `_high`."""
    names = list(keys)
    rows: list[dict[str, Any]] = []
    for key, cell in frame.groupby(names, sort=False, dropna=False):
        row = dict(zip(names, key, strict=True))
        for value in values:
            interval = over_seeds(cell[value])
            row |= {value: interval.mean, f"{value}_low": interval.low, f"{value}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def energy_correlations(paths: pd.DataFrame) -> pd.DataFrame:
    """Spearman's r_s of HE against each metric over the checkpoints, one row a stream and metric.

    `r` is against HE itself (the paper's Figure 1), `r_change` against the size of its change since the pretrained
    weights: a metric that falls while HE moves away, up or down, has a negative one. Checkpoint 0 is not used.
    """
    rows: list[dict[str, Any]] = []
    for key, path in paths.groupby(list(RUN), sort=False, dropna=False):
        for metric in METRICS:
            direct = spearman(path["he"], path[metric])
            change = spearman(path["he_change"].abs(), path[metric])
            rows.append(
                {**dict(zip(RUN, key, strict=True)), "metric": metric, "r": direct.r, "p": direct.p, "n": direct.n,
                 "r_change": change.r, "p_change": change.p}
            )  # fmt: skip
    return pd.DataFrame(rows, columns=[*RUN, "metric", "r", "p", "n", "r_change", "p_change"])


def steps(paths: pd.DataFrame) -> pd.DataFrame:
    """Changes from each checkpoint to the next: RUN, edits (of the later), HE (% of pretrained), metrics (points).

    he_step is signed; weight_step is how far the weights moved in between, back and forth; place counts the steps of
    a stream.
    """
    moved = paths.sort_values(list(STREAM), kind="stable").copy()
    values = ["he_change", "weight_path", *METRICS]
    with np.errstate(invalid="ignore"):
        moved[values] = moved.groupby(list(RUN), dropna=False)[values].diff()
    moved = moved.rename(columns={"he_change": "he_step", "weight_path": "weight_step"})
    moved["place"] = moved.groupby(list(RUN), dropna=False).cumcount()
    return (
        moved[[*STREAM, "place", "he_step", "weight_step", *METRICS]].dropna(subset=["he_step"]).reset_index(drop=True)
    )


FIRST = 3
"""Recorded batches at a stream's start whose movement of HE is the measure of the later ones'."""
FASTER = 5.0
"""HE warns when a batch moves it so many times as much as those did on average. Set beforehand, not fitted."""
ROUNDING = 1e-8
"""Percent of HE: batches that move it less on average move it by the rounding of float32 weights, not at all."""


def pace(batches: pd.DataFrame) -> pd.DataFrame:
    """``energy_by_batch`` of the batches after the first row, with `pace`: |step| over its mean in the `FIRST` batches.

    How much HE moves differs by orders of magnitude between models and methods; how its movement grows compares. NaN
    in a stream whose first batches did not move it beyond rounding, as the rotation's do not.
    """
    moved = batches[batches["edits"] > 0].copy()
    size = moved["step"].abs()
    early = moved.groupby(list(RUN), dropna=False).cumcount() < FIRST
    start = size.where(early).groupby([moved[key] for key in RUN], dropna=False).transform("mean")
    moved["pace"] = size / start.where(start >= ROUNDING)
    return moved.reset_index(drop=True)


def early_warnings(
    paths: pd.DataFrame, batches: pd.DataFrame, *, metric: str = "efficacy", collapse: float = 0.5
) -> pd.DataFrame:
    """Which came first in every stream: a `pace` of HE above `FASTER`, or the metric at `collapse` of its best.

    Columns RUN, warning_edits, collapse_edits, lead_edits (collapse minus warning). NaN: it did not happen.
    """
    rows: list[dict[str, Any]] = []
    moving = pace(batches)
    for key, path in paths.sort_values(list(STREAM), kind="stable").groupby(list(RUN), sort=False, dropna=False):
        names = dict(zip(RUN, key, strict=True))
        own = moving[np.logical_and.reduce([moving[name] == value for name, value in names.items()])]
        moved = own[own["pace"] > FASTER]
        best = path[metric].cummax()
        fallen = path[(best > 0) & (path[metric] <= collapse * best)]  # what never worked cannot fall
        warning = float(moved["edits"].iloc[0]) if len(moved) else float("nan")
        fall = float(fallen["edits"].iloc[0]) if len(fallen) else float("nan")
        lead = fall - warning if isfinite(warning) and isfinite(fall) else float("nan")
        rows.append({**names, "warning_edits": warning, "collapse_edits": fall, "lead_edits": lead})
    return pd.DataFrame(rows, columns=[*RUN, "warning_edits", "collapse_edits", "lead_edits"])
