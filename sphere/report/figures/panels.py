"""What figures share: which panels there are, a line with its interval, and an honest empty panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sphere.report.style import Look
from sphere.report.tables.intervals import Correlation
from sphere.report.tables.layout import dataset_label, family_label, family_of

ACROSS = 4  # panels side by side: with more, 7 pt text has no room
LETTERS = 96  # of titles that a page holds side by side


def combinations(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """(model, dataset) pairs in order of appearance."""
    if frame.empty:
        return []
    return [(str(model), str(dataset)) for model, dataset in frame[["model", "dataset"]].drop_duplicates().to_numpy()]


def in_rows(items: Sequence[str], across: int) -> list[list[str]]:
    """Items in as few rows of at most `across` as hold them, the rows as even as can be."""
    if not items:
        return []
    rows = -(-len(items) // across)
    size = -(-len(items) // rows)
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def wrapped(title: str, across: int) -> str:
    """``title`` in lines that fit above one of so many panels across a page."""
    return fill(title, LETTERS // across)


def panel_title(model: str, dataset: str) -> str:
    return f"{model}, {dataset_label(dataset)}"


def percent(dataset: str, families: Mapping[str, str] | None = None) -> str:
    """The quantity that a dataset's editing metrics are, such as "token accuracy (%)"."""
    return f"{family_label((families or {}).get(dataset, family_of(dataset)))} (%)"


def row_label(model: str, dataset: str, quantity: str, *, several: bool) -> str:
    """The y label of a row of panels, which names model and dataset where a figure has several of them."""
    if several:
        return f"{model}\n{dataset_label(dataset)}, {quantity}"
    return quantity[0].upper() + quantity[1:]


def rank_correlation(found: Correlation) -> str:
    """r_s and p in words short enough for a panel; n where there are too few checkpoints for either."""
    if np.isnan(found.r):
        return f"$r_s$ undefined (n = {found.n})"
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    return f"$r_s$ = {found.r:.2f}, {p}".replace("-", "−")


def band(axis: Axes, frame: pd.DataFrame, value: str, look: Look) -> None:
    """`value` against `edits` where it is finite, with the interval {value}_low .. {value}_high where there is one."""
    known = frame[np.isfinite(frame[value].astype(float))].sort_values("edits")
    axis.plot(known["edits"], known[value], **look.line)
    shaded = known[np.isfinite(known[f"{value}_low"].astype(float))]
    if len(shaded) > 1:
        low, high = shaded[f"{value}_low"], shaded[f"{value}_high"]
        axis.fill_between(shaded["edits"], low, high, color=look.colour, alpha=0.12, linewidth=0)
    elif len(shaded) == 1:
        axis.vlines(shaded["edits"], shaded[f"{value}_low"], shaded[f"{value}_high"], color=look.colour, linewidth=0.8)


def empty(axis: Axes) -> None:
    """Say that this panel has no data."""
    axis.text(0.5, 0.5, "no data", transform=axis.transAxes, ha="center", va="center", color="#777777")
    axis.set_xticks([])
    axis.set_yticks([])
