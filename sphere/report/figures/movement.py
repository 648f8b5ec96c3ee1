"""What is left of the edits against how far the energy moved, and how far the weights did: one point a method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sphere.report.figures.panels import combinations, empty, percent, rank_correlation, row_label
from sphere.report.style import drawing, grid, legend_above, look, say_nothing_to_draw, width_of
from sphere.report.tables.intervals import over_seeds, spearman
from sphere.report.tables.layout import is_control, ordered_methods
from sphere.report.tables.trajectories import RUN, at_last_checkpoint, energy_by_batch, energy_paths

PATHS = {"he_path": "Path of the energy (%)", "weight_path": "Path of the weights, Σ ||ΔW|| / ||W||"}
FAR = 10.0
"""Times the median path: beyond it the axis is logarithmic, from the median on."""


def movement(paths: pd.DataFrame, energy: pd.DataFrame, stem: Path) -> None:
    """Efficacy after the last checkpoint against both paths, one panel each, one row a model and dataset.

    ``paths`` are trajectories, ``energy`` the energy_summary. r_s is over the means of the methods without the
    controls, as claim C2 has it.
    """
    joined = at_last_checkpoint(paths).merge(energy_paths(energy_by_batch(energy)), on=list(RUN))
    joined = joined.dropna(subset=["he_path", "efficacy"])
    found = combinations(joined)
    if not found:
        return say_nothing_to_draw(stem, "no stream with energy and efficacy at its last checkpoint")
    with drawing(stem, width=width_of(2), height=0.15 + 2.1 * len(found)) as figure:
        axes = grid(figure, len(found), len(PATHS))
        for line, (model, dataset) in zip(axes, found, strict=True):
            own = joined[(joined["model"] == model) & (joined["dataset"] == dataset)]
            for axis, name in zip(line, PATHS, strict=True):
                _panel(axis, own.dropna(subset=[name]), name)
            top = 1.1 * max(1.0, *(axis.get_ylim()[1] for axis in line))
            for axis in line:
                axis.set_ylim(-0.04 * top, top)
            line[0].set_ylabel(
                row_label(model, dataset, f"efficacy ({percent(dataset)[:-4]}, %)", several=len(found) > 1)
            )
        for axis, name in zip(axes[-1], PATHS, strict=True):
            axis.set_xlabel(PATHS[name])
        legend_above(figure, list(axes.flat))


def _panel(axis: Axes, own: pd.DataFrame, name: str) -> None:
    if own.empty:
        return empty(axis)
    means = own.groupby("method")[[name, "efficacy"]].mean()
    for method in ordered_methods(means.index):
        seeds = own.loc[own["method"] == method, "efficacy"]
        reach = over_seeds(seeds).half_width if len(seeds) > 1 else np.nan
        x, y = means.loc[method, [name, "efficacy"]].to_numpy(dtype=float)
        axis.vlines(x, y - reach, min(y + reach, 100), color=look(method).colour, linewidth=0.8)
        axis.plot(x, y, **{**look(method).line, "linestyle": "none"})
    middle, most = float(means[name].median()), float(means[name].max())
    if middle > 0 and most > FAR * middle:
        axis.set_xscale("symlog", linthresh=middle)
        axis.set_xticks([0, *10.0 ** np.arange(np.ceil(np.log10(middle)), np.floor(np.log10(most)) + 1)])
    compared = means[[not is_control(str(method)) for method in means.index]]
    rank = spearman(compared[name], compared["efficacy"])
    said = f"{rank_correlation(rank)}, n = {rank.n}" if np.isfinite(rank.r) else f"n = {rank.n}"
    axis.set_title(said, loc="left")
