"""The figure of ``sphere locate``: the indirect effect of each layer's window."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sphere.report.style import COLUMN, drawing, fit_integers, grid


def indirect_effect(effects: pd.DataFrame, stem: Path) -> None:
    """Mean and standard error of the effect by layer; ``effects`` as ``sphere locate`` writes it."""
    with drawing(stem, width=COLUMN, height=2.2) as figure:
        ((axis,),) = grid(figure, 1, 1)
        axis.axhline(0, color="#444444", linewidth=0.6)
        axis.errorbar(effects["layer"], effects["effect"], yerr=effects["stderr"], marker="o", markersize=3, capsize=2)
        axis.set_xlabel("Layer")
        axis.set_ylabel("Indirect effect")
        fit_integers(axis, effects["layer"])
