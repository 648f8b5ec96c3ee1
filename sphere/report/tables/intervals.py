"""95 % confidence intervals and rank correlations. Every interval says in `kind` what it was taken over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from math import inf, isfinite, nan, sqrt

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special  # not stats: every call of snakemake imports this file, and stats takes most of a second

LEVEL = 0.95
EXACT = 8  # pairs up to which a rank correlation's p is counted out
OVER_SEEDS = "t over seeds"
OVER_RECORDS = "normal over records"
OVER_ITEMS = "normal over items"
NO_INTERVAL = "none"


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; low and high are NaN and `kind` is "none" where one value leaves no spread."""

    mean: float
    low: float
    high: float
    kind: str
    n: int  # finite values the mean was taken over

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Correlation:
    """Spearman's r_s and its two-sided p over n pairs; NaN below three pairs or where one side never changes.

    p is exact, over all orders, up to `EXACT` pairs (four points in perfect order have p = 0.08, where the usual
    approximation by Student's t says 0), and by that approximation beyond.
    """

    r: float
    p: float
    n: int


def over_seeds(values: Iterable[float]) -> Interval:
    """Student's t interval of a mean over seeds; values that are not finite are left out."""
    return _mean_interval(values, OVER_SEEDS, student=True)


def over_records(values: Iterable[float]) -> Interval:
    """Normal interval of a mean over the records of one seed; values that are not finite are left out."""
    return _mean_interval(values, OVER_RECORDS, student=False)


def from_stderr(mean: float, stderr: float, n: int = 1, kind: str = OVER_ITEMS) -> Interval:
    """Normal interval from a standard error: over test items, such as the harness reports, or what ``kind`` says."""
    if not isfinite(stderr):
        return Interval(mean, nan, nan, NO_INTERVAL, n)
    reach = float(special.ndtri((1 + LEVEL) / 2)) * stderr
    return Interval(mean, mean - reach, mean + reach, kind, n)


def over_draws(values: Iterable[float], draws: Iterable[float], unit: str) -> Interval:
    """The mean of ``values``, between the percentiles of it that bootstrap ``draws`` of ``unit`` (records) gave.

    Draws that are not finite are left out. The interval reaches to the mean at least, from which the draws of a rank
    correlation lean towards 0.
    """
    mean = _mean_interval(values, NO_INTERVAL, student=False)
    sample = np.asarray(list(draws), dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    if mean.n == 0 or len(sample) < 2:
        return Interval(mean.mean, nan, nan, NO_INTERVAL, mean.n)
    low, high = np.quantile(sample, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = min(mean.mean, float(low)), max(mean.mean, float(high))
    return Interval(mean.mean, low, high, f"bootstrap over {unit}", mean.n)


def stderr_of(low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """The standard errors behind normal 95 % intervals; NaN where there is none."""
    width = np.asarray(high, dtype=np.float64) - np.asarray(low, dtype=np.float64)
    return width / (2 * float(special.ndtri((1 + LEVEL) / 2)))


def _mean_interval(values: Iterable[float], kind: str, *, student: bool) -> Interval:
    sample = np.asarray(list(values), dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    n = len(sample)
    mean = float(sample.mean()) if n else nan
    if n < 2:
        return Interval(mean, nan, nan, NO_INTERVAL, n)
    quantile = special.stdtrit(n - 1, (1 + LEVEL) / 2) if student else special.ndtri((1 + LEVEL) / 2)
    reach = float(quantile) * float(sample.std(ddof=1)) / sqrt(n)
    return Interval(mean, mean - reach, mean + reach, kind, n)


def spearman(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Spearman's rank correlation of the pairs of which neither side is NaN (infinite values keep their rank)."""
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = ~(np.isnan(first) | np.isnan(second))
    first, second = first[known], second[known]
    if len(first) < 3 or len(np.unique(first)) < 2 or len(np.unique(second)) < 2:
        return Correlation(nan, nan, len(first))
    one, two = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second)))
    scale = float(np.linalg.norm(one) * np.linalg.norm(two))
    r = float(np.clip(one @ two / scale, -1, 1))
    if len(first) <= EXACT:
        p = float(np.mean(np.abs(two[_orders(len(two))] @ one) >= (abs(r) - 1e-9) * scale))
        return Correlation(r, p, len(first))
    degrees = len(first) - 2
    t = inf if abs(r) >= 1 - 1e-12 else abs(r) * sqrt(degrees / (1 - r * r))
    return Correlation(r, float(2 * special.stdtr(degrees, -t)), len(first))


def with_held(xy: Correlation, xz: Correlation, yz: Correlation) -> Correlation:
    """The correlation of x and y with z held, from the three of them over the same n: t with n - 3 degrees of freedom.

    NaN where z is a function of x or y, or where n is below 5.
    """
    scale = (1 - xz.r**2) * (1 - yz.r**2)
    if xy.n < 5 or not scale > 1e-12:
        return Correlation(nan, nan, xy.n)
    r = float(np.clip((xy.r - xz.r * yz.r) / sqrt(scale), -1, 1))
    degrees = xy.n - 3
    t = inf if abs(r) >= 1 - 1e-12 else abs(r) * sqrt(degrees / (1 - r * r))
    return Correlation(r, float(2 * special.stdtr(degrees, -t)), xy.n)


def spearman_within(x: ArrayLike, y: ArrayLike, strata: ArrayLike, held: Sequence[ArrayLike] = ()) -> float:
    """Spearman's r_s of the pairs within strata: ranked in each, so that what differs between them says nothing.

    With others ``held``, the partial correlation of the ranks. NaN where one of them changes in no stratum, or where
    those that are held tell all of x or of y.
    """
    columns = np.array([x, y, *held], dtype=np.float64)
    group = np.asarray(strata)
    known = ~np.isnan(columns).any(axis=0)
    sums = np.zeros((len(columns), len(columns)))
    for name in np.unique(group[known]):
        ranks = np.array([_ranks(column[known & (group == name)]) for column in columns])
        ranks -= ranks.mean(axis=1, keepdims=True)
        sums += ranks @ ranks.T
    scale = np.sqrt(np.diag(sums))
    if not (scale > 0).all():
        return nan
    found = sums / np.outer(scale, scale)
    left = found[:2, :2] - found[:2, 2:] @ np.linalg.pinv(found[2:, 2:]) @ found[2:, :2]
    spread = np.diag(left)
    return float(np.clip(left[0, 1] / sqrt(spread[0] * spread[1]), -1, 1)) if (spread > 1e-12).all() else nan


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1; equal values share the mean of theirs."""
    return np.asarray(pd.Series(values).rank(), dtype=np.float64)


@cache
def _orders(n: int) -> NDArray[np.int64]:
    """All orders of n things, (n!, n)."""
    return np.array(list(permutations(range(n))))


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """Least-squares slope of y on x over the finite pairs; NaN below three pairs or where x never changes."""
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    if len(first) < 3 or np.ptp(first) == 0:
        return nan
    centred = first - first.mean()
    return float(centred @ (second - second.mean()) / (centred @ centred))
