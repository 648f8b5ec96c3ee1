"""Figures of the neurons themselves: rows of an edited weight, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from sphere.evaluation.neurons import ORIGINAL, Weight, cosine_matrix, unit_rows
from sphere.report.figures.panels import in_rows, wrapped
from sphere.report.style import COLUMN, PAGE, drawing, grid, look, say_nothing_to_draw
from sphere.report.tables.layout import method_label, ordered_methods

ACROSS = 5
Groups = Mapping[str, Mapping[str, Weight]]  # {"model, dataset, layer 5": {"original" or method: weight}}


def neuron_cosine(groups: Groups, stem: Path) -> None:
    """Cosine between neurons, one heat map for the original weight and one a method, on one colour scale.

    Each weight is (rows, d_in), the same neurons. In every panel they stand in one order, along the original's leading
    principal direction, so that like neurons are neighbours there. The scale ends at the 99.5th percentile of the
    absolute off-diagonal cosines of the whole group, in a map whose sign shows in grey too; the diagonal (1 by
    definition) is left blank.
    """
    groups = _drawable(groups)
    if not groups:
        return say_nothing_to_draw(stem, "no edited weights were given")
    lines = _rows_of_panels(groups, with_original=True)
    across = max(len(labels) for _, labels in lines)
    panel = min(1.6, (PAGE - 0.8) / across)
    with drawing(stem, width=0.8 + panel * across, height=(panel + 0.5) * len(lines)) as figure:
        axes = figure.subplots(len(lines), across, squeeze=False)
        for line, (title, labels) in zip(axes, lines, strict=True):
            order = _along_leading_direction(groups[title][ORIGINAL])
            matrices = {label: _blank_diagonal(cosine_matrix(weight[order])) for label, weight in groups[title].items()}
            limit = max(float(np.nanpercentile(np.abs(matrix), 99.5)) for matrix in matrices.values()) or 1.0
            for axis, label in zip(line, labels, strict=False):
                image = axis.imshow(matrices[label], cmap="cividis", vmin=-limit, vmax=limit, interpolation="nearest")
                change = float(np.nanmean(np.abs(matrices[label] - matrices[ORIGINAL])))
                said = f"{wrapped(method_label(label), ACROSS)}\n|Δcos| {change:.3f}"
                axis.set_title("Original\n" if label == ORIGINAL else said, loc="left", fontsize=7, linespacing=1.2)
                axis.set_xlabel("neuron")
                axis.set_xticks([])
                axis.set_yticks([])
                axis.spines[:].set_visible(False)
            line[0].set_ylabel(f"{title}\nneuron")
            for axis in line[len(labels) :]:
                axis.set_visible(False)
            figure.colorbar(image, ax=list(line), label="Cosine", shrink=0.85)


def neuron_map(groups: Groups, stem: Path, *, seed: int = 0) -> None:
    """t-SNE of the neurons' directions before (grey, open) and after (coloured) editing, joined pair by pair.

    Rows are scaled to unit length and all weights of a group are embedded together, so its panels share one map.
    """
    groups = {title: weights for title, weights in _drawable(groups).items() if len(weights[ORIGINAL]) >= 3}
    if not groups:
        return say_nothing_to_draw(stem, "no edited weights were given")
    lines = _rows_of_panels(groups, with_original=False)
    maps = {title: _embed(weights, seed) for title, weights in groups.items()}
    across = max(len(labels) for _, labels in lines)
    panel = min(1.9, PAGE / across)
    with drawing(stem, width=max(COLUMN, panel * across), height=0.35 + (panel + 0.3) * len(lines)) as figure:
        axes = grid(figure, len(lines), across)
        for line, (title, labels) in zip(axes, lines, strict=True):
            before = maps[title][ORIGINAL]
            for axis, label in zip(line, labels, strict=False):
                after, style = maps[title][label], look(label)
                axis.plot(*np.stack([before, after]).transpose(2, 0, 1), color="#999999", linewidth=0.5, zorder=1)
                axis.scatter(*before.T, s=7, facecolor="white", edgecolor="#777777", linewidth=0.5, zorder=2)
                axis.scatter(*after.T, s=7, linewidth=0.5, zorder=3, **style.points)
                axis.set_title(wrapped(style.label, ACROSS), loc="left", linespacing=1.2)
                axis.tick_params(labelbottom=False, labelleft=False, length=0)
            line[0].set_ylabel(title)
            for axis in line[len(labels) :]:
                axis.set_visible(False)
        figure.supxlabel("t-SNE 1 (no unit)", fontsize=7)
        figure.supylabel("t-SNE 2 (no unit)", fontsize=7)
        handles = [
            Line2D([], [], marker="o", linestyle="none", label=label, markerfacecolor=face, markeredgecolor=edge)
            for label, face, edge in (
                ("before editing", "white", "#777777"),
                ("after editing (in the method's colour)", "#222222", "#222222"),
            )
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)


def _drawable(groups: Groups) -> dict[str, dict[str, Weight]]:
    """Groups with an original and at least one method, every weight finite; a collapsed weight (NaN) is left out."""
    finite = {
        title: {label: weight for label, weight in weights.items() if np.isfinite(weight).all()}
        for title, weights in groups.items()
    }
    return {title: weights for title, weights in finite.items() if ORIGINAL in weights and len(weights) > 1}


def _rows_of_panels(groups: Groups, *, with_original: bool) -> list[tuple[str, list[str]]]:
    """Panels in even rows of at most ACROSS, a group starting on a row of its own."""
    lines = []
    for title, weights in groups.items():
        labels = [ORIGINAL] if with_original else []
        labels += ordered_methods(label for label in weights if label != ORIGINAL)
        lines += [(title, row) for row in in_rows(labels, ACROSS)]
    return lines


def _along_leading_direction(weight: Weight) -> NDArray[np.int64]:
    """The rows' order by their share of the leading right singular vector of the unit rows (its sign is arbitrary)."""
    rows = unit_rows(weight)
    leading = np.linalg.svd(rows, full_matrices=False)[2][0]
    return np.argsort(rows @ leading * np.sign(leading[np.argmax(np.abs(leading))]), kind="stable")


def _blank_diagonal(matrix: Weight) -> Weight:
    blank = matrix.copy()
    np.fill_diagonal(blank, np.nan)
    return blank


def _embed(weights: Mapping[str, Weight], seed: int) -> dict[str, Weight]:
    """{label: (rows, 2)}: one t-SNE of the unit rows of all weights together."""
    from sklearn.manifold import TSNE

    stacked = np.concatenate([unit_rows(weight) for weight in weights.values()])
    perplexity = min(30.0, (len(stacked) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(stacked)
    splits = np.cumsum([len(weight) for weight in weights.values()])[:-1]
    return dict(zip(weights, np.split(points, splits), strict=True))
