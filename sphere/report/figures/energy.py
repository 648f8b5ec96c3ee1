"""Figures of hyperspherical energy: beside accuracy, its changes, Theorem 1's bound, and as an early warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import stats

from sphere.report.figures.panels import (
    ACROSS,
    band,
    combinations,
    empty,
    in_rows,
    panel_title,
    percent,
    rank_correlation,
    row_label,
    wrapped,
)
from sphere.report.style import (
    ENERGY_LOOK,
    METRIC_LOOKS,
    PAGE,
    drawing,
    fit_integers,
    grid,
    legend_above,
    log_limits,
    look,
    say_nothing_to_draw,
    thousands,
    width_of,
)
from sphere.report.tables.intervals import Correlation, over_seeds, spearman
from sphere.report.tables.layout import METRICS, family_label, family_of, method_label, ordered_methods
from sphere.report.tables.trajectories import (
    FASTER,
    FEWEST_CHECKPOINTS,
    FIRST,
    early_warnings,
    energy_correlations,
    largest_changes,
    pace,
    seed_means,
    steps,
    typical_change,
)

FAR = 10  # times what most methods move HE by: a method beyond has an axis of its own
ELLIPSE_POINTS = 6  # a normal distribution fitted to fewer says nothing
FILLED_ELLIPSES = 5  # with more methods than this, only outlines: fills would cover one another


def energy_accuracy(paths: pd.DataFrame, stem: Path) -> None:
    """Figure 1: HE (right axis) and the three accuracies (left) against edits made, one panel a method.

    `paths` is trajectories(); mean over seeds with its 95 % interval. Above each panel Spearman's r_s between HE
    and each metric, as `_correlations` says it, where there are FEWEST_CHECKPOINTS. The right axes of one model and
    dataset are the same, so HE compares, but for a method that moves HE beyond what such an axis can show of others.
    """
    rows = [
        (model, dataset, methods)
        for model, dataset in combinations(paths)
        for methods in in_rows(ordered_methods(_of(paths, model, dataset)["method"]), ACROSS)
    ]
    if not rows:
        return say_nothing_to_draw(stem, "no checkpoint with editing metrics or energy")
    columns = max(len(methods) for _, _, methods in rows)
    several = len(combinations(paths)) > 1
    with drawing(stem, width=width_of(columns), height=0.2 + 1.9 * len(rows)) as figure:
        axes = grid(figure, len(rows), columns, sharey=True)
        for line, (model, dataset, methods) in zip(axes, rows, strict=True):
            place = seed_means(_of(paths, model, dataset), ["method", "edits"], ["he", "he_change", *METRICS])
            bounds = [f"{metric}_{end}" for metric in METRICS for end in ("low", "high")]
            place[bounds] = place[bounds].clip(0, 100)  # as far as a share can be
            far = _far_movers(place)
            limits = _energy_limits(place[~place["method"].isin(far)])
            shared = [method for method in methods if method not in far]
            ranks = energy_correlations(_of(paths, model, dataset))
            for axis, method in zip(line, methods, strict=False):
                own = place[place["method"] == method]
                for metric in METRICS:
                    band(axis, own, metric, METRIC_LOOKS[metric])
                axis.set_ylim(-4, 104)
                fit_integers(axis, own["edits"])
                labelled = method in far or method == shared[-1]
                right = _energy_axis(axis, own, _energy_limits(own) if method in far else limits, labelled=labelled)
                beside = method == methods[-1] and axis is not line[-1]  # the last of a short row has room
                right.set_in_layout(labelled and not beside)
                found = ranks[ranks["method"] == method]
                said = _correlations(found) if found["n"].max() >= FEWEST_CHECKPOINTS else ""
                title = f"{wrapped(method_label(method), ACROSS)}\n{said}".strip()
                axis.set_title(title, loc="left", linespacing=1.2, fontsize=7)
            line[0].set_ylabel(row_label(model, dataset, percent(dataset), several=several))
            for axis in line[len(methods) :]:
                axis.set_visible(False)
        figure.supxlabel("Edits made", fontsize=7)
        legend_above(figure, figure.axes)


def _energy_axis(axis: Axes, own: pd.DataFrame, limits: tuple[float, float], *, labelled: bool) -> Axes:
    right = axis.twinx()
    right.spines["right"].set_visible(True)
    band(right, own, "he_change", ENERGY_LOOK)
    right.set_ylim(limits)
    right.yaxis.set_major_locator(MaxNLocator(4))
    right.tick_params(labelright=labelled)
    right.grid(False)
    if labelled:
        right.set_ylabel("HE change (%)")
    return right


def _far_movers(place: pd.DataFrame) -> set[str]:
    """Methods that move HE so much further than most that beside them the others' curves would be flat."""
    largest = largest_changes(place)
    return set(largest[largest > FAR * typical_change(largest)].index)


def _energy_limits(place: pd.DataFrame) -> tuple[float, float]:
    """Limits that hold zero and every finite HE change and interval, with the room that the left axis has."""
    values = place[["he_change", "he_change_low", "he_change_high"]].to_numpy(dtype=float)
    low, high = (float(edge(values[np.isfinite(values)], initial=0.0)) for edge in (np.min, np.max))
    room = 0.04 * ((high - low) or 1.0)
    return low - room, high + room


def _correlations(found: pd.DataFrame) -> str:
    """A line a metric from rows of energy_correlations(), one a seed and metric."""
    said = {metric: _mean_said(found[found["metric"] == metric]) for metric in METRICS}
    return "\n".join(f"{metric[:3].capitalize()}. {each}" for metric, each in said.items()).replace("$ = ", "$ ")


def _mean_said(found: pd.DataFrame) -> str:
    """One seed: its r_s and p. Several: the mean of their r_s with the half-width of its 95 % interval."""
    over = over_seeds(found["r"])
    if len(found) == 1 or not over.n:
        first = found.iloc[0]
        return rank_correlation(Correlation(first["r"], first["p"], first["n"]))
    spread = f"± {over.half_width:.2f}" if over.n > 1 else "(one seed)"
    return f"$r_s$ = {over.mean:.2f} {spread}".replace("-", "−")


def energy_change(paths: pd.DataFrame, stem: Path) -> None:
    """Figure 2: |change of HE| against |change of accuracy| between checkpoints, one panel a metric.

    One point a stream and pair of checkpoints; 95 % ellipse of each method's points where there are `ELLIPSE_POINTS`
    or more, cut where a change of accuracy must end, and the least-squares line over all points, both in the
    coordinates drawn: log10 of the HE change, points of accuracy.
    """
    moved = steps(paths)
    moved = moved.assign(he_step=moved["he_step"].abs(), **{metric: moved[metric].abs() for metric in METRICS})
    moved = moved[np.isfinite(moved["he_step"]) & (moved["he_step"] > 0)]
    found = combinations(moved)
    if not found:
        return say_nothing_to_draw(stem, "no two checkpoints with energy and editing metrics")
    with drawing(stem, width=PAGE, height=0.1 + 2.2 * len(found)) as figure:
        axes = grid(figure, len(found), len(METRICS))
        for line, (model, dataset) in zip(axes, found, strict=True):
            own = _of(moved, model, dataset)
            for axis, metric in zip(line, METRICS, strict=True):
                axis.set_xscale("log")
                points = own[own[metric].notna()]
                _change_panel(axis, points, metric)
                correlation = rank_correlation(spearman(points["he_step"], points[metric]))
                title = f"{metric.capitalize()}\n{correlation}, n = {len(points)}"
                axis.set_title(title, loc="left", linespacing=1.2)
            quantity = f"|Δ {family_label(family_of(dataset))}| (points)"
            line[0].set_ylabel(row_label(model, dataset, quantity, several=len(found) > 1))
        for axis in axes[-1]:
            axis.set_xlabel("|Δ HE| (% of pretrained)")
        legend_above(figure, list(axes.flat))


def _change_panel(axis: Axes, own: pd.DataFrame, metric: str) -> None:
    if own.empty:
        return empty(axis)
    held = own[["he_step", metric]].to_numpy()  # what the axes have to hold: the points, then the ellipses too
    for method in ordered_methods(own["method"]):
        points, style = own[own["method"] == method], look(method)
        fitted = len(points) >= ELLIPSE_POINTS
        axis.plot([], [], **{**style.line, "linestyle": style.dash if fitted else "none"})  # for the legend
        axis.plot(points["he_step"], points[metric], **{**style.line, "label": "_nolegend_", "linestyle": "none"})
        outline = ellipse(np.log10(points["he_step"].to_numpy()), points[metric].to_numpy()) if fitted else None
        if outline is not None:
            x, y = 10 ** outline[:, 0], outline[:, 1]
            possible = (y >= 0) & (y <= 100)
            if own["method"].nunique() <= FILLED_ELLIPSES:
                axis.fill(x, y.clip(0, 100), facecolor=style.colour, alpha=0.12, linewidth=0)
            axis.plot(x, np.where(possible, y, np.nan), color=style.colour, linestyle=style.dash, linewidth=0.9)
            held = np.concatenate([held, np.stack([x, y], axis=1)[possible]])
    x, y = np.log10(own["he_step"].to_numpy()), own[metric].to_numpy()
    if len(x) >= 3 and np.ptp(x) > 0:
        at = np.linspace(x.min(), x.max(), 100)
        line, low, high = regression(x, y, at)
        axis.plot(10**at, line, color="#222222", linewidth=1.4, zorder=2, label="least squares, all points")
        axis.fill_between(10**at, low, high, color="#222222", alpha=0.08, linewidth=0)
    axis.set_xlim(log_limits(held[:, 0]))
    top = float(held[:, 1].max()) or 1.0
    axis.set_ylim(-0.05 * top, 1.08 * top)


def ellipse(x: NDArray[np.float64], y: NDArray[np.float64], *, level: float = 0.95) -> NDArray[np.float64] | None:
    """Outline (100, 2) of the region a normal distribution fitted to the points fills to `level`.

    None below three points or where they lie on a line.
    """
    if len(x) < 3:
        return None
    covariance = np.cov(x, y)
    values, vectors = np.linalg.eigh(covariance)
    if values[0] <= 1e-12 * max(float(values[1]), 1e-300):
        return None
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angle), np.sin(angle)]) * np.sqrt(values * stats.chi2.ppf(level, 2))[:, None]
    return np.asarray((vectors @ circle).T + np.array([x.mean(), y.mean()]))


def regression(
    x: NDArray[np.float64], y: NDArray[np.float64], at: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Least-squares line of y on x at `at`, and the 95 % interval of its mean (needs three points, two x values)."""
    n, centre = len(x), x.mean()
    spread = float(((x - centre) ** 2).sum())
    slope = float(((x - centre) * (y - y.mean())).sum()) / spread
    residual = y - y.mean() - slope * (x - centre)
    error = np.sqrt((residual @ residual) / (n - 2) * (1 / n + (at - centre) ** 2 / spread))
    reach = stats.t.ppf(0.975, n - 2) * error
    fitted = y.mean() + slope * (at - centre)
    return fitted, fitted - reach, fitted + reach


def theorem_bound(energy: pd.DataFrame, stem: Path) -> None:
    """Theorem 1: measured ||dV|| on text keys against its bound (dHE / K)^2, one point a layer and batch, log axes."""
    needed = {"perturbation", "bound"}
    energy = energy[energy["batch"] > 0]
    known = energy.dropna(subset=list(needed)) if needed <= set(energy.columns) else energy.iloc[:0]
    known = known[np.isfinite(known["bound"]) & np.isfinite(known["perturbation"])] if len(known) else known
    drawn = known[(known["bound"] > 0) & (known["perturbation"] > 0)] if len(known) else known
    found = combinations(drawn)
    if not found:
        return say_nothing_to_draw(stem, "no batch with a positive bound and a measured perturbation")
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    with drawing(stem, width=width_of(columns), height=0.2 + 2.8 * rows) as figure:
        axes = grid(figure, rows, columns)
        for axis, (model, dataset) in zip(axes.flat, found, strict=False):
            own, every = _of(drawn, model, dataset), _of(known, model, dataset)
            for method in ordered_methods(own["method"]):
                points = own[own["method"] == method]
                axis.scatter(
                    points["bound"], points["perturbation"], s=9, linewidth=0.6, alpha=0.8, **look(method).points
                )
            axis.set_xscale("log")
            axis.set_yscale("log")
            left, right = log_limits(own["bound"])
            bottom, top = log_limits([*own["perturbation"], *own["bound"]])  # the line is always in view
            axis.plot([left, right], [left, right], color="#222222", lw=0.8, linestyle="--", label="measured = bound")
            axis.fill_between([left, right], [left, right], bottom, color="#222222", alpha=0.07, linewidth=0)
            axis.set_xlim(left, right)
            axis.set_ylim(bottom, top)
            holds = int((every["perturbation"] >= every["bound"] * (1 - 1e-9)).sum())  # as claim C3 counts
            said = f"{panel_title(model, dataset)}\nholds for {holds:,} of {len(every):,} updates of a layer"
            tightness = float((own["bound"] / own["perturbation"]).median())
            said += f"\nmedian bound / measured {_power(tightness)}"
            if len(own) < len(every):
                said += f"\n{len(every) - len(own):,} at 0 not drawn"
            axis.set_title(said, loc="left", linespacing=1.2)
            axis.set_xlabel(r"Bound $(\Delta\mathrm{HE}/K)^2$")
            axis.set_ylabel(r"Measured $\|\Delta V\|$")
        for axis in list(axes.flat)[len(found) :]:
            axis.set_visible(False)
        legend_above(figure, list(axes.flat))


def _power(value: float) -> str:
    """A positive number to one digit, times a power of ten."""
    digit, exponent = f"{value:.0e}".split("e")
    return rf"${digit}\times10^{{{int(exponent)}}}$"


def early_warning(paths: pd.DataFrame, batches: pd.DataFrame, stem: Path, *, collapse: float = 0.5) -> None:
    """How fast every recorded batch moves HE, efficacy at every checkpoint, and which came first.

    On the right a line a method leads from where HE's pace first passes `FASTER` (dashed on the left) to where efficacy
    first falls to `collapse` of its best.
    """
    found = [each for each in combinations(paths) if len(_of(batches, *each))]
    if not found:
        return say_nothing_to_draw(stem, "no stream with energy and editing metrics")
    lanes = max(_of(paths, *each)["method"].nunique() for each in found)
    with drawing(stem, width=PAGE, height=0.1 + max(2.2, 0.6 + 0.14 * lanes) * len(found)) as figure:
        axes = grid(figure, len(found), 3)
        for (left, middle, right), (model, dataset) in zip(axes, found, strict=True):
            own, energy = _of(paths, model, dataset), _of(batches, model, dataset)
            first = early_warnings(own, energy, collapse=collapse)
            energy = pace(energy)
            for method in ordered_methods(own["method"]):
                lines = seed_means(energy[energy["method"] == method], ["edits"], ["pace"])
                points = seed_means(own[own["method"] == method], ["edits"], ["efficacy"])
                points[["efficacy_low", "efficacy_high"]] = points[["efficacy_low", "efficacy_high"]].clip(0, 100)
                _series(left, lines, "pace", method, batches=True)
                _series(middle, points, "efficacy", method)
            _leads(right, first)
            left.axhline(FASTER, color="#222222", linewidth=0.8, linestyle="--")
            left.set_yscale("log")
            left.set_ylim(log_limits([FASTER, *energy["pace"][np.isfinite(energy["pace"]) & (energy["pace"] > 0)]]))
            middle.set_ylim(-4, 104)
            end = float(max(own["edits"].max(), energy["edits"].max()))
            titles = (f"Pace of energy\ndashed: {FASTER:g}", "Efficacy", "Lead\nfrom energy (|) to efficacy")
            for axis, title in zip((left, middle, right), titles, strict=True):
                axis.set_xlim(-0.04 * end, 1.04 * end)
                axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
                thousands(axis)
                axis.set_title(title, loc="left", linespacing=1.2)
            left.set_ylabel(row_label(model, dataset, f"|step of HE| / first {FIRST}", several=len(found) > 1))
            middle.set_ylabel(f"Efficacy ({family_label(family_of(dataset))}, %)")
        for axis in axes[-1]:
            axis.set_xlabel("Edits made")
        legend_above(figure, list(axes.flat))


def _series(axis: Axes, frame: pd.DataFrame, value: str, method: str, *, batches: bool = False) -> None:
    """A line over the finite values; `batches`: many points, on a log axis."""
    known = frame[np.isfinite(frame[value])] if len(frame) else frame
    known = known[known[value] > 0] if batches else known
    if known.empty:
        return
    known = known.sort_values("edits")
    axis.plot(known["edits"], known[value], **look(method).line, markevery=max(1, len(known) // 6) if batches else None)
    low, high = known[f"{value}_low"], known[f"{value}_high"]
    if low.notna().any():
        floor = known[value].min() / 10 if batches else 0.0  # a log axis has no zero
        axis.fill_between(known["edits"], low.clip(lower=floor), high, color=look(method).colour, alpha=0.12, lw=0)


def _leads(axis: Axes, first: pd.DataFrame) -> None:
    """A lane a method: from where HE moved (a bar) to where the metric collapsed (the method's marker)."""
    methods = ordered_methods(first["method"])
    for lane, method in enumerate(methods):
        when = first[first["method"] == method][["warning_edits", "collapse_edits"]].mean()
        axis.plot(when, [lane, lane], **{**look(method).line, "markevery": [1]})
        axis.plot(when["warning_edits"], lane, marker="|", markersize=8, markeredgewidth=1.2, color="#222222")
        if when.isna().all():
            axis.annotate("neither", (0, lane), xytext=(3, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(methods)), [method_label(method) for method in methods])
    axis.set_ylim(len(methods) - 0.5, -0.5)  # the first method on top
    axis.grid(False, axis="y")


def _of(frame: pd.DataFrame, model: str, dataset: str) -> pd.DataFrame:
    return frame[(frame["model"] == model) & (frame["dataset"] == dataset)]
