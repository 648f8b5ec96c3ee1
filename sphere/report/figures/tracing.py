"""Figures of layers: the indirect effect of each layer's window, and what a first batch reaches in sets of layers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from sphere.report.style import (
    COLUMN,
    METRIC_LOOKS,
    drawing,
    fit_integers,
    grid,
    legend_above,
    say_nothing_to_draw,
    width_of,
)
from sphere.report.tables.locate import layers_of


def indirect_effect(effects: pd.DataFrame, stem: Path) -> None:
    """Mean and standard error of the effect by layer; ``effects`` as ``sphere locate`` writes it."""
    with drawing(stem, width=COLUMN, height=2.2) as figure:
        ((axis,),) = grid(figure, 1, 1)
        _effect(axis, effects)
        axis.set_xlabel("Layer")
        axis.set_ylabel("Indirect effect")


def layers(effects: pd.DataFrame, sets: pd.DataFrame, stem: Path) -> None:
    """The effect by layer, and below it the metrics of a first batch at the middle of each set, one column a model.

    The tables are layer_effects and layer_sets. The layers that the study edits are shaded.
    """
    models = list(effects["model"].unique())
    if not models:
        return say_nothing_to_draw(stem, "this study locates no layers")
    with drawing(stem, width=width_of(len(models)), height=3.6) as figure:
        axes = grid(figure, 2, len(models), sharex="col")
        for (upper, lower), model in zip(axes.T, models, strict=True):
            tried = sets[sets["model"] == model]
            for layer in (layer for text in tried[tried["edited"]]["layers"] for layer in layers_of(text)):
                for axis in (upper, lower):
                    axis.axvspan(layer - 0.5, layer + 0.5, color="#EEEEEE", linewidth=0)
            middles = [sum(found) / len(found) for found in map(layers_of, tried["layers"])]
            for metric, look in METRIC_LOOKS.items():
                lower.plot(middles, 100 * tried[metric], **look.line)
            lower.set_ylim(-4, 104)
            lower.set_xlabel("Layer")
            upper.set_title(str(model), loc="left")
            _effect(upper, effects[effects["model"] == model])
        axes[0, 0].set_ylabel("Indirect effect")
        axes[1, 0].set_ylabel("First batch (%)")
        legend_above(figure, list(axes.flat))


def _effect(axis: Axes, effects: pd.DataFrame) -> None:
    axis.axhline(0, color="#444444", linewidth=0.6)
    axis.errorbar(
        effects["layer"], effects["effect"], effects["stderr"], color="#222222", marker="o", markersize=3, capsize=2
    )
    fit_integers(axis, effects["layer"])
