"""A study of one order, resampled: what its claims' intervals are taken over.

Each replicate draws the records again, with replacement and the same ones for every method and checkpoint, as a paired
bootstrap does (Efron and Tibshirani 1993). It stands in the tables as a seed below 0, so that every test measures it as
it measures an order. What is not of records is drawn likewise: general ability within its standard error over items
(not paired, hence wider), timing over batches, neurons over layers. None of it says what another order would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sphere.config.names import PRE_EDITED
from sphere.report.tables.intervals import LEVEL
from sphere.report.tables.layout import METRICS

REPLICATES = 400


def replicated_paths(paths: pd.DataFrame, records: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """``trajectories()`` of one order, with the replicates behind it; ``records`` is editing_records."""
    found = [paths]
    for (model, dataset), own in records.groupby(["model", "dataset"], sort=False):
        mine = paths[(paths["model"] == model) & (paths["dataset"] == dataset)]
        wide = own.pivot_table(index="case_id", columns=["method", "edits"], values=list(METRICS), dropna=False)
        values = wide.to_numpy(dtype=float)
        drawn = rng.multinomial(len(wide), np.full(len(wide), 1 / len(wide)), size=REPLICATES)
        known = drawn @ np.isfinite(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = pd.DataFrame(100 * (drawn @ np.nan_to_num(values)) / known, columns=wide.columns)
        for row in mine.to_dict("records"):
            state = row["method"], row["edits"]
            if (METRICS[0], *state) in means:
                again: dict[Any, Any] = {name: means[(name, *state)] for name in METRICS}
                found.append(pd.DataFrame({**row, **again, "seed": _labels()}))
    return pd.concat(found, ignore_index=True)


def replicated(frame: pd.DataFrame) -> pd.DataFrame:
    """A table that is the same in every replicate, with a copy for each."""
    copies = frame.loc[frame.index.repeat(REPLICATES)].assign(seed=np.tile(_labels(), len(frame)))
    return pd.concat([frame, copies], ignore_index=True)


def replicated_scores(ability: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """``headline_ability()``, each score drawn anew within its standard error over items."""
    if ability.empty:
        return ability
    edited = ability[ability["method"] != PRE_EDITED]
    error = (edited["ci_high"] - edited["mean"]) / stats.norm.ppf((1 + LEVEL) / 2)
    copies = replicated(edited).iloc[len(edited) :]
    noise = rng.standard_normal(len(copies)) * np.repeat(error.to_numpy(), REPLICATES)
    return pd.concat([ability, copies.assign(mean=copies["mean"].to_numpy() + noise)], ignore_index=True)


def replicated_units(frame: pd.DataFrame, unit: Sequence[str], rng: np.random.Generator) -> pd.DataFrame:
    """A table whose ``unit`` columns name what is drawn again: batches of a stream, layers of a model.

    The same ones are drawn for every method; one that is drawn twice gets another number.
    """
    if frame.empty:
        return frame
    found = [frame]
    for _, own in frame.groupby(["model", "dataset"], sort=False):
        number = own.groupby(list(unit), sort=True).ngroup()
        rows = [np.flatnonzero(number == i) for i in range(number.max() + 1)]
        for seed in _labels():
            drawn = rng.integers(len(rows), size=len(rows))
            again = own.iloc[np.concatenate([rows[i] for i in drawn])]
            place = np.repeat(np.arange(1, len(drawn) + 1), [len(rows[i]) for i in drawn])
            found.append(again.assign(**{"seed": seed, unit[-1]: place}))
    return pd.concat(found, ignore_index=True)


def one_order(paths: pd.DataFrame, records: pd.DataFrame) -> bool:
    """Whether the study has one order of its edits and the records to resample."""
    return not records.empty and paths["seed"].nunique() == 1


def _labels() -> np.ndarray[Any, np.dtype[np.int64]]:
    return -np.arange(1, REPLICATES + 1)
