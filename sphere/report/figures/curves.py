"""Figures of scores: general ability and editing along the stream, plug-and-play bars, eta-alpha maps, training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import NDArray

from sphere.report.figures.panels import ACROSS, band, combinations, empty, in_rows, percent, row_label
from sphere.report.style import PAGE, drawing, fit_integers, grid, legend_above, look, say_nothing_to_draw, width_of
from sphere.report.tables.layout import (
    ANCHORS,
    METRICS,
    dataset_label,
    family_of,
    is_anchor,
    method_label,
    ordered_methods,
    projected_pairs,
)
from sphere.report.tables.neutral import LABELS
from sphere.report.tables.stream import ability_labels, in_bits

LEAST_SPAN = 0.05
"""A panel that does not begin at 0 shows at least this part of its largest value, lest rounding looks like a trend."""
LETTER = 0.06
"""Inches that a letter of a label takes."""


def general_ability(by_method: pd.DataFrame, stem: Path) -> None:
    """Score of each task family against edits made, one line a method; dashed, the model before any edit.

    `by_method` is general_ability_by_method.
    """
    titles = {family: label.replace(", ", ",\n") for family, label in ability_labels(by_method).items()}
    plain = in_bits(by_method)
    _curves(by_method, "family", titles, lambda _: "score (%)", stem, "no general-ability score", plain=plain)


def editing_curves(by_method: pd.DataFrame, stem: Path, *, families: Mapping[str, str] | None = None) -> None:
    """The dataset's family of editing metrics against edits made, one line a method, one panel a metric."""
    wanted = [(families or {}).get(dataset, family_of(dataset)) for dataset in by_method["dataset"]]
    kept = by_method[(by_method["metric_family"] == wanted) & by_method["metric"].isin(METRICS)]
    titles = {metric: metric.capitalize() for metric in METRICS if metric in set(kept["metric"])}
    _curves(kept, "metric", titles, lambda dataset: percent(dataset, families), stem, "no editing metric")


def retention(by_cohort: pd.DataFrame, stem: Path) -> None:
    """What holds at the last checkpoint, by when it was edited: one line a method, one panel a metric.

    `by_cohort` is retention_curve of retention_summary.
    """
    titles = {metric: metric.capitalize() for metric in METRICS if metric in set(by_cohort["metric"])}
    across = "Edits made when the cohort was whole"
    _curves(by_cohort, "metric", titles, percent, stem, "no edit was evaluated at the last checkpoint", across=across)


def neutral(by_method: pd.DataFrame, stem: Path) -> None:
    """Bits a byte and drift on neutral text against edits made, one line a method; dashed, the unedited model.

    `by_method` is neutral_by_method.
    """
    titles = {metric: label for metric, label in LABELS.items() if metric in set(by_method["metric"])}
    _curves(by_method, "metric", titles, lambda _: "neutral text", stem, "no neutral text was measured", plain=titles)


def _curves(
    by_method: pd.DataFrame,
    key: str,
    titles: Mapping[str, str],
    quantity: Callable[[str], str],
    stem: Path,
    reason: str,
    *,
    across: str = "Edits made",
    plain: Collection[str] = (),
) -> None:
    """One panel a value of the column `key`, under its title; `quantity(dataset)` is what the y axis shows.

    Shares are drawn in percent and from 0, the panels `plain` as they are and around their curves.
    """
    edited = by_method[~by_method["method"].isin(ANCHORS)]
    found = combinations(edited)
    if not found:
        return say_nothing_to_draw(stem, reason)
    # a symmetric interval of a share may reach beyond what a share can be: it is drawn as far as it can be
    share = ~by_method[key].isin(list(plain))
    scale, most = np.where(share, 100, 1), np.where(share, 100, np.inf)
    shown = by_method.assign(value=scale * by_method["mean"], value_low=(scale * by_method["ci_low"]).clip(0, most),
                             value_high=(scale * by_method["ci_high"]).clip(0, most))  # fmt: skip
    rows = [(model, dataset, names) for model, dataset in found for names in in_rows(list(titles), ACROSS)]
    columns = max(len(names) for _, _, names in rows)
    with drawing(stem, width=width_of(columns), height=0.15 + 1.85 * len(rows)) as figure:
        axes = grid(figure, len(rows), columns)
        for line, (model, dataset, names) in zip(axes, rows, strict=True):
            own = shown[(shown["model"] == model) & (shown["dataset"] == dataset)]
            for axis, name in zip(line, names, strict=False):
                _curve_panel(axis, own[own[key] == name], from_zero=name not in plain)
                axis.set_title(titles[name], loc="left")
            for axis in line[len(names) :]:
                axis.set_visible(False)
            line[0].set_ylabel(row_label(model, dataset, quantity(dataset), several=len(found) > 1))
        figure.supxlabel(across, fontsize=7)
        legend_above(figure, list(axes.flat))


def _curve_panel(axis: Axes, own: pd.DataFrame, *, from_zero: bool) -> None:
    """One panel: from 0 to what the lines need, or around them, with room for the markers."""
    own = own[np.isfinite(own["value"])]
    if own.empty:
        return empty(axis)
    for method in ordered_methods(own["method"]):
        line = own[own["method"] == method]
        if is_anchor(method):
            style = look(method)
            axis.axhline(
                float(line["value"].iloc[0]), color=style.colour, linestyle=style.dash, linewidth=0.9, label=style.label
            )
        else:
            band(axis, line, "value", look(method))
    edited = own[~own["method"].isin(ANCHORS)]
    if len(edited):
        fit_integers(axis, edited["edits"])
    bottom, top = axis.get_ylim()
    if from_zero:
        bottom, top = 0.0, max(1.0, top)
    else:
        missing = max(0.0, LEAST_SPAN * abs(top) - (top - bottom)) / 2
        bottom, top = bottom - missing, top + missing
    room = 0.04 * (top - bottom)
    axis.set_ylim(bottom - room, top + room)


def plug_and_play(by_method: pd.DataFrame, stem: Path, *, families: Mapping[str, str] | None = None) -> None:
    """Each baseline without (plain) and with (hatched) the projection after the last checkpoint, one panel a metric.

    `by_method` is editing_by_method; error bars are its 95 % intervals.
    """
    wanted = [(families or {}).get(dataset, family_of(dataset)) for dataset in by_method["dataset"]]
    kept = by_method[(by_method["metric_family"] == wanted) & by_method["metric"].isin(METRICS)]
    kept = kept[kept["edits"] == kept.groupby(["model", "dataset"])["edits"].transform("max")]
    pairs = {pair: projected_pairs(kept[(kept["model"] == pair[0]) & (kept["dataset"] == pair[1])]["method"])
             for pair in combinations(kept)}  # fmt: skip
    found = [pair for pair, both in pairs.items() if both]
    if not found:
        return say_nothing_to_draw(stem, "no baseline was run both with and without the projection")
    label = LETTER * max(len(model) for model, _ in found) if len(found) > 1 else 0.0  # it stands beside its row
    heights = [max(0.6 + 0.29 * len(pairs[pair]), 0.2 + label) for pair in found]
    with drawing(stem, width=PAGE, height=0.25 + sum(heights)) as figure:
        axes = grid(figure, len(found), len(METRICS), sharex="row", sharey="row", height_ratios=heights)
        for line, (model, dataset) in zip(axes, found, strict=True):
            own = kept[(kept["model"] == model) & (kept["dataset"] == dataset)]
            for axis, metric in zip(line, METRICS, strict=True):
                _bars(axis, own[own["metric"] == metric], pairs[model, dataset])
                axis.set_title(metric.capitalize(), loc="left")
                axis.set_xlabel(percent(dataset, families).capitalize())
            line[0].set_xlim(0, max(1.25 * line[0].get_xlim()[1], 1.0))  # room for the numbers; all at 0 has an axis
            line[0].set_xticks([tick for tick in line[0].get_xticks() if tick <= min(100, line[0].get_xlim()[1])])
            if len(found) > 1:
                line[0].set_ylabel(f"{model}\n{dataset_label(dataset)}")
        handles = [
            Patch(facecolor="#BBBBBB", edgecolor="#222222", linewidth=0.6, label="without the projection"),
            Patch(facecolor="white", edgecolor="#222222", linewidth=0.6, hatch="////", label="with the projection"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)


def _bars(axis: Axes, own: pd.DataFrame, pairs: list[tuple[str, str]]) -> None:
    axis.grid(False, axis="y")
    for position, pair in enumerate(pairs):
        colour = look(pair[0]).colour
        for offset, method in zip((-0.2, 0.2), pair, strict=True):
            row = own[own["method"] == method]
            if row.empty or not np.isfinite(row["mean"].iloc[0]):
                continue
            mean, low, high = (100 * float(row[column].iloc[0]) for column in ("mean", "ci_low", "ci_high"))
            low, high = np.clip([low, high], 0, 100)  # as far as a share can be
            reach = [[mean - low], [high - mean]] if np.isfinite(low) else None
            plain: dict[str, Any] = {"color": colour, "edgecolor": "#222222"}
            hatched: dict[str, Any] = {"color": "white", "edgecolor": colour, "hatch": "////"}
            axis.barh(
                position + offset, mean, 0.38, linewidth=0.6, xerr=reach, ecolor="#222222", capsize=1.5,
                error_kw={"linewidth": 0.8}, **(hatched if method == pair[1] else plain),
            )  # fmt: skip
            axis.annotate(f"{mean:.1f}", (high if reach else mean, position + offset), xytext=(3, -0.5), va="center",
                          textcoords="offset points")  # fmt: skip
    axis.set_yticks(range(len(pairs)), [method_label(base) for base, _ in pairs])
    axis.set_ylim(len(pairs) - 0.5, -0.5)  # the first pair on top


def sensitivity(grids: Mapping[str, pd.DataFrame], stem: Path) -> None:
    """Efficacy over the cumulative ratio eta (rows) and the suppression strength alpha (columns), one map a title.

    Each frame has eta, alpha, efficacy (percent); equal settings are averaged, a setting not tried stays blank.
    """
    maps = {title: frame.dropna(subset=["eta", "alpha", "efficacy"]) for title, frame in grids.items()}
    maps = {title: frame for title, frame in maps.items() if len(frame)}
    if not maps:
        return say_nothing_to_draw(stem, "no efficacy measured over eta and alpha")
    tables = {
        title: frame.pivot_table(index="eta", columns="alpha", values="efficacy") for title, frame in maps.items()
    }
    columns = min(2, len(tables))
    rows = -(-len(tables) // columns)
    with drawing(stem, width=width_of(columns), height=2.7 * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, (title, table) in zip(axes.flat, tables.items(), strict=False):
            values = table.to_numpy(dtype=float)
            high = float(np.nanmax(values))  # the colours span ten points at least: noise shall not look like a trend
            low = min(float(np.nanmin(values)), high - 10)
            image = axis.imshow(values, origin="lower", aspect="auto", cmap="cividis", vmin=low, vmax=high)
            axis.set_xticks(range(table.shape[1]), [f"{alpha:g}" for alpha in table.columns])
            axis.set_yticks(range(table.shape[0]), [f"{eta:g}" for eta in table.index])
            axis.set_xlabel(r"Suppression strength $\alpha$")
            axis.set_ylabel(r"Cumulative ratio $\eta$")
            axis.set_title(title, loc="left")
            _numbers(axis, values, image.norm(values))
            figure.colorbar(image, ax=axis, label="Efficacy (%)")
        for axis in list(axes.flat)[len(tables) :]:
            axis.set_visible(False)


def _numbers(axis: Axes, values: NDArray[np.float64], shade: NDArray[np.float64]) -> None:
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if not np.isfinite(value) or shade[row, column] > 0.55 else "white"
        said = f"{value:.1f}" if np.isfinite(value) else "–"
        axis.text(column, row, said, ha="center", va="center", color=colour, fontsize=7)


def training(curves: pd.DataFrame, stem: Path) -> None:
    """Loss and share of facts recalled against training steps, one column a model.

    `curves` has model, step, loss (nats a token) and fact_accuracy (share; empty between measurements).
    """
    known = curves.dropna(subset=["step"])
    if known.empty:
        return say_nothing_to_draw(stem, "this study trains no model of its own")
    models = list(known["model"].unique())
    with drawing(stem, width=width_of(len(models)), height=3.2) as figure:
        axes = grid(figure, 2, len(models), sharex="col")
        for (upper, lower), model in zip(axes.T, models, strict=True):
            own = known[known["model"] == model].sort_values("step")
            loss, facts = own.dropna(subset=["loss"]), own.dropna(subset=["fact_accuracy"])
            upper.plot(loss["step"], loss["loss"], color="#222222")
            upper.set_title(str(model), loc="left")
            lower.plot(facts["step"], 100 * facts["fact_accuracy"], color="#222222", marker="o", markersize=3)
            lower.set_ylim(-4, 104)
            lower.set_xlabel("Training step")
        axes[0, 0].set_ylabel("Loss (nats a token)")
        axes[1, 0].set_ylabel("Facts recalled (%)")
