"""What a claim is tested with: the evidence, one number a seed, the interval over seeds, and the verdict on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sphere.evaluation.neurons import COLUMNS as NEURON_COLUMNS
from sphere.report.claims.replicates import (
    one_order,
    replicated,
    replicated_paths,
    replicated_scores,
    replicated_units,
)
from sphere.report.tables.intervals import NO_INTERVAL, OVER_SEEDS, Interval, over_draws, over_seeds
from sphere.report.tables.layout import is_control, method_label
from sphere.report.tables.summaries import headline_ability, load, scores
from sphere.report.tables.trajectories import RUN, energy_by_batch, trajectories
from sphere.report.verdicts import NOT_REPRODUCED, NOT_TESTED, REPRODUCED, signed


@dataclass(frozen=True)
class Evidence:
    """What the tests read: every gathered table, and the trajectories made from them."""

    paths: pd.DataFrame  # trajectories()
    batches: pd.DataFrame  # energy_by_batch()
    energy: pd.DataFrame
    ability: pd.DataFrame
    timing: pd.DataFrame
    neurons: pd.DataFrame
    incidents: pd.DataFrame

    @classmethod
    def read(cls, tables: Path, *, seed: int = 0) -> Evidence:
        """From a folder of gathered tables; neuron_cosine.csv may be missing.

        A study of one order is resampled (``replicates``), drawn from ``seed``.
        """
        energy = load(tables, "energy_summary")
        neurons = tables / "neuron_cosine.csv"
        found = cls(
            paths=trajectories(load(tables, "editing_summary"), energy),
            batches=energy_by_batch(energy),
            energy=energy,
            ability=scores(headline_ability(load(tables, "general_ability_summary"))),
            timing=load(tables, "timing_summary"),
            neurons=pd.read_csv(neurons) if neurons.exists() else pd.DataFrame(columns=list(NEURON_COLUMNS)),
            incidents=load(tables, "incidents"),
        )
        records = load(tables, "editing_records")
        if not one_order(found.paths, records):
            return found
        rng = np.random.default_rng(seed)
        return replace(
            found,
            paths=replicated_paths(found.paths, records, rng),
            batches=replicated(found.batches),
            ability=replicated_scores(found.ability, rng),
            timing=replicated_units(found.timing[found.timing["batch"] > 0], ("edits", "batch"), rng),
            neurons=replicated_units(found.neurons, ("layer",), rng),
        )

    def without_controls(self) -> Evidence:
        """The evidence of the methods alone: the paper's claims know no controls."""
        kept = {
            name: frame[~frame["method"].map(is_control).astype(bool)] if len(frame) else frame
            for name, frame in vars(self).items()
        }
        return Evidence(**kept)

    @property
    def stopped(self) -> dict[str, int]:
        """Method -> how many of its streams ended before the last checkpoint of their model and dataset.

        Those that have rows but not there, and those that say so themselves, which may have none at all.
        """
        said = self.incidents[self.incidents["event"] == "stopped"]
        ended = set(said[list(RUN)].itertuples(index=False, name=None))
        if len(self.paths):
            paths = orders(self.paths)
            last = paths.groupby(["model", "dataset"])["edits"].transform("max")
            reached = (paths["edits"] == last).groupby([paths[key] for key in RUN], sort=False).any()
            ended |= set(reached[~reached].index)
        return dict(Counter(str(method) for _, _, method, _ in sorted(ended)))

    @property
    def methods(self) -> list[str]:
        """Every method that was run, one that stopped before its first checkpoint too."""
        return list(dict.fromkeys([*self.paths["method"], *self.stopped]))


@dataclass(frozen=True)
class Part:
    """One number a seed of one part of a claim."""

    name: str
    statistic: str
    unit: str
    by_seed: Mapping[int, float]
    left_out: tuple[str, ...] = ()
    """Parts that a mean over parts could not use, since a seed of theirs has no number."""
    unit_of_draws: str = "records"
    """What the replicates of a study of one order draw."""

    @property
    def interval(self) -> Interval:
        drawn = [value for seed, value in self.by_seed.items() if seed < 0]
        seeds = [value for seed, value in self.by_seed.items() if seed >= 0]
        return over_draws(seeds, drawn, self.unit_of_draws) if drawn else over_seeds(seeds)


@dataclass(frozen=True)
class Finding:
    """What a test found: the claim's own statistic, its parts, and the verdict with its reason."""

    whole: Part
    verdict: str
    reason: str
    parts: list[Part] = field(default_factory=list)


class UntestableError(Exception):
    """The study lacks what a test needs; the message says what."""


def numbers(part: Part) -> dict[str, Any]:
    interval = part.interval
    return {"statistic": part.statistic, "effect": interval.mean, "unit": part.unit, "ci_low": interval.low,
            "ci_high": interval.high, "ci_kind": interval.kind, "n_seeds": interval.n}  # fmt: skip


def judge(
    interval: Interval, shown: str, not_shown: str, *, above: float | None = None, below: float | None = None
) -> tuple[str, str]:
    """The verdict on an interval that the claim puts above or below a number (or between two), and its reason.

    The reason begins with ``shown`` or ``not_shown``, what either means in a reader's words.
    """
    if interval.n == 0:
        return NOT_TESTED, "no seed has this statistic"
    if interval.kind == NO_INTERVAL:
        return NOT_TESTED, "one order alone has this statistic, and no records to resample: an interval needs two"
    fits = (above is None or interval.low > above) and (below is None or interval.high < below)
    opposite = (above is not None and interval.high < above) or (below is not None and interval.low > below)
    sides = [("above", above), ("below", below)]
    wanted = " and ".join(f"{side} {limit:g}" for side, limit in sides if limit is not None)
    which = "lies" if fits or opposite else "does not lie wholly"
    kind = "" if interval.kind == OVER_SEEDS else f", {interval.kind} and not over orders,"
    verdict, meaning = (REPRODUCED, shown) if fits else (NOT_REPRODUCED, not_shown)
    return verdict, f"{meaning}: {'none of ' if opposite else ''}the interval{kind} {which} {wanted}"


def pooled(name: str, statistic: str, unit: str, parts: Iterable[Part]) -> Part:
    """The mean over parts, seed by seed.

    A part that lacks a seed which others have is left out, so that every seed's mean is over the same parts; where
    that would leave none, the seeds that all parts have are used. A replicate's mean is over those of these parts that
    it defines: one draw in which a rank correlation has nothing to rank takes no part out of the others.
    """
    each = list(parts)
    finite = [{seed: value for seed, value in part.by_seed.items() if isfinite(value)} for part in each]
    seeds = set().union(*finite)
    ran = {seed for seed in seeds if seed >= 0}
    some = [values for values in finite if values]
    known = [values for values in some if values.keys() >= ran] or some
    left_out = tuple(part.name for part, values in zip(each, finite, strict=True) if values not in known)
    common = sorted(seed for seed in seeds if seed < 0 or all(seed in values for values in known))
    drawn = {seed: [values[seed] for values in known if seed in values] for seed in common}
    means = {seed: float(np.mean(values)) for seed, values in drawn.items() if values}
    return Part(name, statistic, unit, means, left_out, each[0].unit_of_draws if each else "records")


def stops(evidence: Evidence, *methods: str) -> str:
    """Words for the end of a reason: how many streams of these methods, or of all, stopped early; empty for none."""
    wanted = methods or tuple(evidence.stopped)
    said = [f"{method_label(method)} ({count})" for method, count in evidence.stopped.items() if method in wanted]
    return f"; streams that stopped before the last checkpoint: {', '.join(said)}" if said else ""


def orders(frame: pd.DataFrame) -> pd.DataFrame:
    """Its rows of orders that ran, without the replicates."""
    return frame[frame["seed"] >= 0]


def by_seed_of(frame: pd.DataFrame, column: str) -> dict[int, float]:
    """The column's one value a seed."""
    return per_seed(frame, lambda run: float(run[column].iloc[0]))


def per_seed(frame: pd.DataFrame, measure: Callable[[pd.DataFrame], float]) -> dict[int, float]:
    runs: Iterable[tuple[Any, pd.DataFrame]] = frame.groupby("seed", sort=True)
    return {int(seed): float(measure(run)) for seed, run in runs}


def place(model: Any, dataset: Any) -> str:
    return f"{model}, {dataset}"


def said_of(part: Part) -> str:
    interval = part.interval
    bounds = f" [{signed(interval.low)}, {signed(interval.high)}]" if isfinite(interval.low) else ""
    unit = f" {part.unit}" if part.unit else ""
    return f"{signed(interval.mean)}{unit}{bounds}" if interval.n else str(nan)
