"""Figures of a study from its gathered tables: every entry of `FIGURES` is one call.

`FIGURES["energy_accuracy"](tables_dir, figures_dir / "energy_accuracy")` writes .pdf, .svg and .png.

A figure without its data is drawn as one line that says what is missing; nothing is ever filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from sphere.evaluation.neurons import Weight
from sphere.report.figures import curves, energy, movement, neurons, side_by_side, tracing
from sphere.report.tables.editing import read_paper
from sphere.report.tables.layout import dataset_label, method_label, paper_name
from sphere.report.tables.neurons import sampled_weights
from sphere.report.tables.retention import retention_curve
from sphere.report.tables.stream import PAPER_MODELS
from sphere.report.tables.summaries import load
from sphere.report.tables.trajectories import energy_by_batch, trajectories

__all__ = ["FIGURES", "write_all"]

Selection = Callable[[str], pd.DataFrame]


def _selection(tables: Path, model: str | None, dataset: str | None) -> Selection:
    """Read a gathered table, keeping one model and dataset where they are named."""

    def read(name: str) -> pd.DataFrame:
        frame = load(tables, name)
        for column, wanted in (("model", model), ("dataset", dataset)):
            if wanted is not None and column in frame:
                frame = frame[(frame[column] == wanted) | frame[column].isna()]
        return frame

    return read


def _paths(read: Selection) -> pd.DataFrame:
    return trajectories(read("editing_summary"), read("energy_summary"))


def _sensitivity(read: Selection, stem: Path, published: Path | None) -> None:
    """One map a model, in percent; the paper's map beside a model of the paper."""
    tried = read("sensitivity_summary")
    grids = {
        f"{model}, {method_label(str(method))}": own.assign(efficacy=100 * own["efficacy"])
        for (model, method), own in tried.groupby(["model", "method"], sort=False)
    }
    paper = read_paper(published, "sensitivity")
    if paper is not None and any(paper_name(model, PAPER_MODELS) for model in tried["model"].unique()):
        grids["Paper"] = paper
    curves.sensitivity(grids, stem)


def _groups(tables: Path, model: str | None, dataset: str | None) -> dict[str, Mapping[str, Weight]]:
    return {
        f"{own_model}\n{dataset_label(own_dataset)}, layer {layer}": weights
        for (own_model, own_dataset, layer), weights in sampled_weights(tables).items()
        if model in (None, own_model) and dataset in (None, own_dataset)
    }


_FROM_TABLES: dict[str, Callable[[Selection, Path, Path | None], None]] = {
    "energy_accuracy": lambda read, stem, _: energy.energy_accuracy(_paths(read), stem),
    "energy_change": lambda read, stem, _: energy.energy_change(_paths(read), stem),
    "movement": lambda read, stem, _: movement.movement(_paths(read), read("energy_summary"), stem),
    "theorem_bound": lambda read, stem, _: energy.theorem_bound(read("energy_summary"), stem),
    "early_warning": lambda read, stem, _: energy.early_warning(
        _paths(read), energy_by_batch(read("energy_summary")), stem
    ),
    "editing_curves": lambda read, stem, _: curves.editing_curves(read("editing_by_method"), stem),
    "side_by_side": lambda read, stem, published: side_by_side.side_by_side(read("editing_by_method"), published, stem),
    "neutral": lambda read, stem, _: curves.neutral(read("neutral_by_method"), stem),
    "retention": lambda read, stem, _: curves.retention(retention_curve(read("retention_summary")), stem),
    "general_ability": lambda read, stem, _: curves.general_ability(read("general_ability_by_method"), stem),
    "plug_and_play": lambda read, stem, _: curves.plug_and_play(read("editing_by_method"), stem),
    "sensitivity": _sensitivity,
    "layers": lambda read, stem, _: tracing.layers(read("layer_effects"), read("layer_sets"), stem),
    "training": lambda read, stem, _: curves.training(read("training"), stem),
}
_FROM_WEIGHTS: dict[str, Callable[[neurons.Groups, Path], None]] = {
    "neuron_cosine": neurons.neuron_cosine,
    "neuron_map": neurons.neuron_map,
}


def _drawer(name: str) -> Callable[..., None]:
    def draw(
        tables: Path,
        out_stem: Path,
        *,
        model: str | None = None,
        dataset: str | None = None,
        published: Path | None = None,
    ) -> None:
        if name in _FROM_WEIGHTS:
            _FROM_WEIGHTS[name](_groups(tables, model, dataset), out_stem)
        else:
            _FROM_TABLES[name](_selection(tables, model, dataset), out_stem, published)

    draw.__doc__ = f"Draw the figure {name} to out_stem.pdf, .svg and .png."
    return draw


FIGURES: dict[str, Callable[..., None]] = {name: _drawer(name) for name in (*_FROM_TABLES, *_FROM_WEIGHTS)}
"""name -> function(tables, out_stem, *, model=None, dataset=None, published=None); None keeps every one of them."""


def write_all(tables: Path, out: Path, *, published: Path | None = None) -> None:
    """Draw every figure into the folder `out`."""
    for name, draw in FIGURES.items():
        draw(tables, out / name, published=published)
