"""Figures: each in three formats, the same bytes twice, whatever is missing; and the looks that tell methods apart."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import made_up_study
import matplotlib
import matplotlib.colors
import matplotlib.path
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from scipy import stats

from sphere.evaluation.neurons import gather_neurons
from sphere.report import style
from sphere.report.figures import FIGURES, write_all
from sphere.report.figures.curves import training
from sphere.report.figures.energy import ellipse, energy_accuracy, energy_change, regression, theorem_bound
from sphere.report.figures.movement import PATHS
from sphere.report.figures.neurons import neuron_cosine, neuron_map
from sphere.report.figures.panels import in_rows
from sphere.report.style import COLUMN, METRIC_LOOKS, PAGE, RC, drawing, fit_integers, legend_above, log_limits, look
from sphere.report.tables import TABLES, gather, load
from sphere.report.tables.intervals import spearman
from sphere.report.tables.layout import METHOD_LABELS, is_anchor
from sphere.report.tables.trajectories import early_warnings, energy_by_batch, trajectories

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "config" / "published"
SIGNATURES = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}
METHODS = [name for name in METHOD_LABELS if not is_anchor(name)]
HEADLINES = ("alphaedit", "sphere")  # the pair that has two looks


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of a made-up study with everything that a figure can draw."""
    scope = made_up_study.study(methods=["memit", "memit+sphere", "alphaedit", "sphere"], datasets=["counterfact"])
    root = made_up_study.make_results(tmp_path_factory.mktemp("study"), scope)
    trials = pd.DataFrame(itertools.product([0.3, 0.5], [0.5, 0.8]), columns=["eta", "alpha"])
    made_up_study.save(
        trials.assign(trial=range(4), efficacy=[0.1, 0.2, 0.4, np.nan], score=0.1), root / "tiny/sensitivity/sphere.csv"
    )
    gather(root, scope, root / "tables")
    original, edited = made_up_study.weights()
    names = {"model": "tiny", "dataset": "counterfact", "seed": 0, "edits": 100}
    streams = [({**names, "method": method}, {0: weight}) for method, weight in edited.items()]
    gather_neurons(root / "tables", {"tiny": {0: original}}, streams)
    return root / "tables"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures drawn in a test, to be looked into; no file is written."""
    figures: list[Figure] = []

    def make(**options: Any) -> Figure:
        figures.append(Figure(**options))
        return figures[-1]

    monkeypatch.setattr(style, "Figure", make)
    monkeypatch.setattr(style, "FORMATS", ())
    return figures


# ---------------------------------------------------------------------------------------------------------- looks


def lightness_a_b(colour: str, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of a colour as someone sees it whose linear RGB is `matrix` times the usual one."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.clip(matrix @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira and Fernandes (2009), full severity
SIGHTS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_stay_apart(sight: str) -> None:
    for colours in ([look(name).colour for name in METHODS], [each.colour for each in METRIC_LOOKS.values()]):
        seen = [lightness_a_b(colour, SIGHTS[sight]) for colour in colours]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 10


def test_marker_and_dash_tell_methods_apart_without_colour() -> None:
    looks = [look(name) for name in [*METHODS, *(f"{name}+sphere" for name in METHODS if name not in HEADLINES)]]
    assert len({(each.marker, each.filled) for each in looks}) == len(looks)
    assert len({each.dash for each in looks}) == len(looks)


def test_a_projected_method_is_its_baseline_with_an_open_marker_and_wider_gaps() -> None:
    base, projected = look("rect"), look("rect+sphere")
    assert (base.colour, base.marker) == (projected.colour, projected.marker)
    assert base.dash[1][::2] == projected.dash[1][::2]
    assert all(gap < wide for gap, wide in zip(base.dash[1][1::2], projected.dash[1][1::2], strict=True))
    assert base.filled
    assert not projected.filled
    assert look("sphere") == look("alphaedit+sphere")
    assert look("sphere").colour != look("alphaedit").colour


def test_a_method_of_your_own_always_looks_the_same() -> None:
    assert look("my-method") == look("my-method")
    assert look("my-method").label == "my-method"
    assert look("my-method").colour == look("my-method+sphere").colour


# ------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_written_in_three_formats_and_has_a_caption(name: str, gathered: Path, tmp_path: Path) -> None:
    FIGURES[name](gathered, tmp_path / name, published=PUBLISHED)
    for suffix, signature in SIGNATURES.items():
        assert (tmp_path / f"{name}.{suffix}").read_bytes().startswith(signature)
    assert b"Not drawn" not in (tmp_path / f"{name}.svg").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3
    assert (ROOT / "workflow" / "report" / f"figure_{name}.rst").read_text().strip()


def test_figures_are_the_same_bytes_on_every_run(gathered: Path, tmp_path: Path) -> None:
    names = ["energy_accuracy", "plug_and_play", "neuron_map"]  # twin axes, hatches, an optimiser
    for folder in ("one", "two"):
        for name in names:
            FIGURES[name](gathered, tmp_path / folder / name)
    files = list((tmp_path / "one").iterdir())
    assert len(files) == 3 * len(names)
    for path in files:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_users_matplotlibrc_changes_nothing_and_is_left_alone(tmp_path: Path) -> None:
    curves = pd.DataFrame({"model": "m", "step": [0, 1], "loss": [2.0, 1.0], "fact_accuracy": [0.0, 1.0]})
    training(curves, tmp_path / "plain")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": "x"}):
        training(curves, tmp_path / "theirs")
        assert matplotlib.rcParams["font.size"] == 20
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "theirs.svg").read_bytes()
    assert matplotlib.rcParams["svg.hashsalt"] != RC["svg.hashsalt"]


def test_no_text_leaves_the_page_or_covers_another(drawn: list[Figure], tmp_path: Path) -> None:
    """On a study with the longest names and titles that occur here: two datasets, five methods, bounds of zero."""
    methods = ["memit", "memit-seq", "memit+sphere", "alphaedit", "sphere"]
    scope = made_up_study.study(models=["embedded"], methods=methods, seeds=[0], checkpoints=[20, 60, 100])
    root = made_up_study.make_results(tmp_path, scope)
    gather(root, scope, root / "tables")
    energy = load(root / "tables", "energy_summary")
    energy.loc[energy["batch"] == 1, "bound"] = 0.0
    energy.to_csv(root / "tables" / "energy_summary.csv", index=False)
    original, edited = made_up_study.weights()
    gather_neurons(
        root / "tables",
        {"embedded": {0: original}},
        [
            ({"model": "embedded", "dataset": dataset, "seed": 0, "edits": 100, "method": method}, {0: edited["memit"]})
            for dataset in scope["datasets"]
            for method in methods
        ],
    )
    for name in FIGURES:
        FIGURES[name](root / "tables", tmp_path / name, published=PUBLISHED)
    assert len(drawn) == len(FIGURES)
    for figure, name in zip(drawn, FIGURES, strict=True):
        check_texts(figure, name)


def check_texts(figure: Figure, name: str) -> None:
    """No text leaves the page or covers another; but for the neurons', the page is one column or two, the text 7 pt."""
    renderer = figure.canvas.get_renderer()
    hidden = {text for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        hidden |= {text for tick in [*beyond, *axis.get_minor_ticks()] for text in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in hidden]
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert min(text.get_fontsize() for text in texts) >= 7, name
    if not name.startswith("neuron"):
        titled = [axes for axes in figure.axes if axes.get_visible() and axes.get_title("left")]
        columns = len({round(axes.get_position().x0, 2) for axes in titled})
        assert figure.get_figwidth() == (COLUMN if columns <= 1 else PAGE), name
    for text, box in zip(texts, boxes, strict=True):
        assert box.x0 >= -1, (name, text)
        assert box.y0 >= -1, (name, text)
        assert box.x1 <= figure.bbox.x1 + 1, (name, text)
        assert box.y1 <= figure.bbox.y1 + 1, (name, text)
    for (one, first), (other, second) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        along = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(across, along) <= 1, (name, one, other)


def test_texts_have_room_with_eight_pairs_and_eight_families(
    drawn: list[Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest study that this repository has: every baseline with and without the projection."""
    bases = [name for name in METHODS if name not in HEADLINES]
    for name in bases:
        monkeypatch.setitem(made_up_study.DECAY, f"{name}+sphere", (0.1, 0.3))
    methods = [*bases, *(f"{name}+sphere" for name in bases)]
    scope = made_up_study.study(models=["qwen2.5-7b-instruct"], methods=methods, seeds=[0], checkpoints=[20, 60, 100])
    root = made_up_study.make_results(tmp_path, scope)
    gather(root, scope, root / "tables")
    ability = load(root / "tables", "general_ability_by_method")
    both = pd.concat([ability, ability.assign(family=ability["family"] + "_zeroshot")])
    both.to_csv(root / "tables" / "general_ability_by_method.csv", index=False)
    names = [name for name in FIGURES if name not in ("neuron_cosine", "neuron_map", "sensitivity", "training")]
    for name in names:
        FIGURES[name](root / "tables", tmp_path / name)
    for figure, name in zip(drawn, names, strict=True):
        check_texts(figure, name)
    pairs = drawn[names.index("plug_and_play")].axes
    assert len(pairs) == 2 * 3
    assert all(len(axis.patches) == 2 * len(axis.get_yticks()) == 2 * 8 for axis in pairs)
    assert len(drawn[names.index("general_ability")].axes) == 2 * 8


def test_perplexity_has_a_panel_of_its_own_scale(drawn: list[Figure], tmp_path: Path) -> None:
    scope = made_up_study.study(datasets=["zsre"], methods=["memit", "sphere"])
    root = made_up_study.make_results(tmp_path, scope)
    made_up_study.add_perplexity(root, lambda method, edits: 1.2 + edits * (method == "memit"))
    gather(root, scope, root / "tables")
    FIGURES["general_ability"](root / "tables", tmp_path / "a")
    check_texts(drawn[0], "general_ability")
    *shares, panel = [axis for axis in drawn[0].axes if axis.get_visible()]
    assert panel.get_title(loc="left") == "Perplexity,\nbits a byte"
    ends = {line.get_label(): float(line.get_ydata()[-1]) for line in panel.lines}
    assert ends == pytest.approx({"Pre-edited": 1.2, "MEMIT": 101.2, "SPHERE": 1.2})
    for axis in shares:
        bottom, top = axis.get_ylim()
        assert bottom < 0
        assert top < 115
        assert top > max(float(np.max(line.get_ydata())) for line in axis.lines)  # no marker on the edge is cut
    assert panel.get_ylim()[1] > 101.2


def test_movement_sets_the_last_efficacy_against_both_paths(drawn: list[Figure], tmp_path: Path) -> None:
    scope = made_up_study.study(datasets=["zsre"], methods=["memit", "alphaedit", "sphere", "rotate"])
    root = made_up_study.make_results(tmp_path, scope)
    gather(root, scope, root / "tables")
    FIGURES["movement"](root / "tables", tmp_path / "a")
    check_texts(drawn[0], "movement")
    left, right = (axis for axis in drawn[0].axes if axis.get_visible())
    assert [axis.get_xlabel() for axis in (left, right)] == list(PATHS.values())
    editing = load(root / "tables", "editing_summary")
    wanted = editing[(editing["metric"] == "efficacy") & (editing["metric_family"] == "accuracy")]
    means = 100 * wanted[wanted["edits"] == wanted["edits"].max()].groupby("method")["mean"].mean()
    for axis in (left, right):
        points = {line.get_label(): float(line.get_ydata()[0]) for line in axis.lines}
        assert points["SPHERE"] == pytest.approx(means["sphere"])
        assert len(points) == 4
        assert "n = 3" in axis.get_title(loc="left"), "controls are drawn and not counted"


def test_a_panel_of_its_own_scale_shows_where_its_curves_are_and_makes_no_trend_of_rounding(
    drawn: list[Figure], tmp_path: Path
) -> None:
    scope = made_up_study.study(datasets=["zsre"], methods=["memit", "sphere"])
    root = made_up_study.make_results(tmp_path, scope)
    made_up_study.add_perplexity(root, lambda method, edits: 1.2 + 1e-6 * edits)
    gather(root, scope, root / "tables")
    FIGURES["general_ability"](root / "tables", tmp_path / "a")
    bottom, top = [axis for axis in drawn[0].axes if axis.get_visible()][-1].get_ylim()
    assert 1.1 < bottom < 1.2 < top < 1.3
    assert top - bottom > 0.05


def test_figures_of_a_study_with_next_to_nothing(tmp_path: Path) -> None:
    scope = made_up_study.study(datasets=["counterfact"], methods=["memit"], seeds=[0], checkpoints=[20])
    root = made_up_study.make_results(tmp_path, scope)
    for name in ("energy.csv", "timing.csv", "general_ability.csv", "training.csv", "effects.csv", "sets.csv"):
        for path in root.rglob(name):
            path.unlink()
    gather(root, scope, root / "tables")
    write_all(root / "tables", root / "figures", published=PUBLISHED)
    assert len(list((root / "figures").iterdir())) == 3 * len(FIGURES)


def test_one_model_and_dataset_can_be_drawn_alone(gathered: Path, drawn: list[Figure], tmp_path: Path) -> None:
    FIGURES["editing_curves"](gathered, tmp_path / "a", model="tiny", dataset="counterfact")
    FIGURES["editing_curves"](gathered, tmp_path / "b", model="tiny", dataset="zsre")
    assert len(drawn[0].axes) == 3
    assert drawn[1].axes == []
    assert drawn[1].texts[0].get_text() == "Not drawn: no editing metric"


# --------------------------------------------------------------------------------------------- what is in the panels


def test_energy_accuracy_draws_the_means_and_says_the_correlation(
    gathered: Path, drawn: list[Figure], tmp_path: Path
) -> None:
    paths = trajectories(load(gathered, "editing_summary"), load(gathered, "energy_summary"))
    energy_accuracy(paths, tmp_path / "x")
    left = [axis for axis in drawn[0].axes if axis.get_title(loc="left")]
    assert [axis.get_title(loc="left").splitlines()[0] for axis in left] == [
        "MEMIT", "MEMIT + SPHERE", "AlphaEdit", "SPHERE",
    ]  # fmt: skip
    own = paths[paths["method"] == "memit"].groupby("edits")[["he", "he_change", "efficacy"]].mean()
    assert left[0].lines[0].get_ydata() == pytest.approx(own["efficacy"].to_numpy())
    twins = [axis for axis in drawn[0].axes if not axis.get_title(loc="left") and axis.lines]
    assert twins[0].lines[0].get_ydata() == pytest.approx(own["he_change"].to_numpy())
    paths.loc[(paths["seed"] == 1) & (paths["edits"] == 100), "efficacy"] = 99.0  # seeds that differ
    energy_accuracy(paths, tmp_path / "y")
    memit = paths[paths["method"] == "memit"]
    r = [stats.spearmanr(run["he"], run["efficacy"]).statistic for _, run in memit.groupby("seed")]
    half = stats.t.ppf(0.975, 2) * np.std(r, ddof=1) / np.sqrt(3)
    said = f"Eff. $r_s$ {np.mean(r):.2f} ± {half:.2f}".replace("-", "−")
    assert drawn[1].axes[0].get_title(loc="left").splitlines()[1] == said
    energy_accuracy(paths[paths["seed"] == 1], tmp_path / "z")
    run = memit[memit["seed"] == 1]
    p = spearman(run["he"], run["efficacy"]).p
    assert drawn[2].axes[0].get_title(loc="left").splitlines()[1].endswith(f"p = {p:.3f}")
    energy_accuracy(paths[paths["edits"].isin(sorted(paths["edits"].unique())[:4])], tmp_path / "few")
    assert drawn[3].axes[0].get_title(loc="left") == "MEMIT"


def test_a_method_that_moves_the_energy_far_has_an_axis_of_its_own(
    gathered: Path, drawn: list[Figure], tmp_path: Path
) -> None:
    """Beside a control that moves HE by percents the other methods' curves are no flat lines."""
    paths = trajectories(load(gathered, "editing_summary"), load(gathered, "energy_summary"))
    paths.loc[paths["method"] == "memit", "he_change"] *= 1000
    energy_accuracy(paths, tmp_path / "x")
    right = {
        axis.get_title(loc="left"): next(twin for twin in drawn[0].axes if twin is not axis and _same(twin, axis))
        for axis in drawn[0].axes
        if axis.get_title(loc="left")
    }
    tops = {title.splitlines()[0]: axis.get_ylim()[1] for title, axis in right.items()}
    assert tops["AlphaEdit"] == tops["SPHERE"] == tops["MEMIT + SPHERE"]
    assert tops["MEMIT"] > 10 * tops["SPHERE"]


def _same(first: Axes, second: Axes) -> bool:
    return first.get_position().bounds == second.get_position().bounds


def test_missing_and_infinite_values_are_left_out_not_filled_in(
    gathered: Path, drawn: list[Figure], tmp_path: Path
) -> None:
    paths = trajectories(load(gathered, "editing_summary"), load(gathered, "energy_summary"))
    paths.loc[paths["edits"] == 60, "efficacy"] = np.nan
    paths.loc[paths["edits"] >= 80, ["he", "he_change"]] = np.inf
    energy_accuracy(paths, tmp_path / "x")
    left = [axis for axis in drawn[0].axes if axis.get_title(loc="left")]
    assert list(left[0].lines[0].get_xdata()) == [20, 40, 80, 100]
    twins = [axis for axis in drawn[0].axes if not axis.get_title(loc="left") and axis.lines]
    assert list(twins[0].lines[0].get_xdata()) == [20, 40, 60]
    energy_change(paths, tmp_path / "y")


def test_theorem_bound_counts_every_update(drawn: list[Figure], tmp_path: Path) -> None:
    run = {"model": "m", "dataset": "zsre", "method": "memit", "seed": 0}
    rows = [(1e-4, 1.0), (1e-3, 2.0), (5.0, 2.0), (2.0, 2.0 - 1e-12), (0.0, 3.0), (np.nan, 1.0), (np.inf, 1.0)]
    energy = pd.DataFrame([{**run, "batch": 1, "bound": b, "perturbation": p} for b, p in rows])
    before = energy.iloc[:1].assign(batch=0)  # the state before any edit is no update
    theorem_bound(pd.concat([before, energy]), tmp_path / "x")
    axis = drawn[0].axes[0]
    assert "holds for 4 of 5 updates" in axis.get_title(loc="left")
    assert "1 at 0 not drawn" in axis.get_title(loc="left")
    assert len(axis.collections[0].get_offsets()) == 4


def test_ellipses_have_their_methods_dash_and_lie_within_the_axes(drawn: list[Figure], tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    run = {"model": "m", "dataset": "zsre", "seed": 0}
    paths = pd.DataFrame(
        [
            {**run, "method": method, "edits": k, "he": 1.0, "he_change": np.exp(rng.normal()) * k,
             "weight_path": 1.0 * k, "efficacy": 10 + rng.normal(), "generalization": 50.0, "specificity": 99 * (k % 2)}
            for method in ("memit", "memit+sphere")
            for k in range(1, 12)
        ]
    )  # fmt: skip
    energy_change(paths, tmp_path / "x")
    efficacy, _, specificity = drawn[0].axes
    outlines = [line for line in efficacy.lines if line.get_marker() == "None" and len(line.get_xdata()) == 100][:2]
    assert [outline.get_linestyle() for outline in outlines] == ["--", "--"]
    assert outlines[0]._dash_pattern != outlines[1]._dash_pattern
    for outline in outlines:
        x, y = outline.get_data()
        seen = y[np.isfinite(y)]
        assert len(seen) < len(y)  # these would reach below zero
        assert seen.min() >= 0
        assert seen.max() <= efficacy.get_ylim()[1]
        assert efficacy.get_xlim()[0] <= x[np.isfinite(y)].min()
        assert x[np.isfinite(y)].max() <= efficacy.get_xlim()[1]
    assert all(np.nanmax(line.get_ydata()) <= 100 for line in specificity.lines if len(line.get_ydata()))
    assert efficacy.get_ylabel() == "|Δ token accuracy| (points)"


def test_early_warning_has_a_lane_from_warning_to_collapse(gathered: Path, drawn: list[Figure], tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    shutil.copytree(gathered, tables)
    energy = load(gathered, "energy_summary")
    energy.loc[(energy["method"] == "memit") & (energy["batch"] > 3), "he_mean"] += 50
    energy.to_csv(tables / "energy_summary.csv", index=False)
    FIGURES["early_warning"](tables, tmp_path / "x")
    lanes = drawn[0].axes[2]
    assert [label.get_text() for label in lanes.get_yticklabels()] == [
        "MEMIT", "MEMIT + SPHERE", "AlphaEdit", "SPHERE",
    ]  # fmt: skip
    first = early_warnings(trajectories(load(gathered, "editing_summary"), energy), energy_by_batch(energy))
    when = first[first["method"] == "memit"][["warning_edits", "collapse_edits"]].mean()
    assert when.notna().all()
    assert list(lanes.lines[0].get_xdata()) == list(when)
    assert lanes.lines[0].get_marker() == look("memit").marker
    assert list(lanes.lines[1].get_xdata()) == [when["warning_edits"]]
    assert [text.get_text() for text in lanes.texts] == ["neither"] * 3


def test_axes_say_which_accuracy_they_show(drawn: list[Figure], tmp_path: Path) -> None:
    scope = made_up_study.study(methods=["memit"], seeds=[0], checkpoints=[20, 40, 60])
    root = made_up_study.make_results(tmp_path, scope)
    gather(root, scope, root / "tables")
    for name in ("energy_accuracy", "editing_curves"):
        FIGURES[name](root / "tables", tmp_path / name)
        labels = [axis.get_ylabel() for axis in drawn[-1].axes]
        assert [label for label in labels if "accuracy" in label] == [
            "tiny\nCounterFact, accuracy (%)", "tiny\nzsRE, token accuracy (%)",
        ]  # fmt: skip


def test_training_is_drawn_in_no_methods_colour(gathered: Path, drawn: list[Figure], tmp_path: Path) -> None:
    FIGURES["training"](gathered, tmp_path / "x")
    colours = {line.get_color() for axis in drawn[0].axes for line in axis.lines}
    assert not colours & {look(name).colour for name in METHOD_LABELS}


def test_layers_are_drawn_over_those_that_the_study_edits(gathered: Path, drawn: list[Figure], tmp_path: Path) -> None:
    FIGURES["layers"](gathered, tmp_path / "x")
    upper, lower = drawn[0].axes
    assert [(box.get_x(), box.get_width()) for box in upper.patches] == [(0.5, 1), (1.5, 1)]
    assert [list(line.get_xdata()) for line in lower.lines] == [[0.5, 1.5, 3.5]] * 3
    assert list(lower.lines[0].get_ydata()) == [100, 75, 50]
    drawn_effect = next(line for line in upper.lines if len(line.get_xdata()) == 6)
    assert list(drawn_effect.get_ydata()) == made_up_study.layer_effects()["effect"].tolist()


def test_sensitivity_writes_the_number_in_its_cell(gathered: Path, drawn: list[Figure], tmp_path: Path) -> None:
    FIGURES["sensitivity"](gathered, tmp_path / "x", published=PUBLISHED)
    axis = drawn[0].axes[0]
    assert axis.get_title(loc="left") == "tiny, SPHERE"
    assert len([each for each in drawn[0].axes if each.images]) == 1  # `tiny` is no model of the paper
    written = {text.get_position(): text.get_text() for text in axis.texts}
    assert written == {(0, 0): "10.0", (1, 0): "20.0", (0, 1): "40.0", (1, 1): "–"}


def test_plug_and_play_pairs_each_baseline(gathered: Path, drawn: list[Figure], tmp_path: Path) -> None:
    FIGURES["plug_and_play"](gathered, tmp_path / "x")
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["MEMIT", "AlphaEdit"]
    assert [bool(bar.get_hatch()) for bar in axis.patches] == [False, True, False, True]
    rows = load(gathered, "editing_by_method").query(
        "edits == 100 and metric == 'efficacy' and metric_family == 'accuracy'"
    )
    means = rows.set_index("method")["mean"]
    expected = [100 * means[name] for name in ("memit", "memit+sphere", "alphaedit", "sphere")]
    assert [bar.get_width() for bar in axis.patches] == pytest.approx(expected)


def test_a_method_without_its_results_is_not_drawn(drawn: list[Figure], tmp_path: Path) -> None:
    original, edited = made_up_study.weights(20, 6)
    groups = {"m, zsRE": {"original": original, "sphere": edited["sphere"], "memit": np.full_like(original, np.nan)}}
    neuron_cosine(groups, tmp_path / "x")
    titles = [axis.get_title(loc="left") for axis in drawn[0].axes if axis.images and axis.get_title(loc="left")]
    assert [title.split("\n")[0] for title in titles] == ["Original", "SPHERE"]
    neuron_map({"m, zsRE": {"sphere": edited["sphere"]}}, tmp_path / "y")
    assert drawn[1].axes == []


# ------------------------------------------------------------------------------------------------------- the helpers


def test_ellipse_holds_its_share_of_a_normal_sample() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.multivariate_normal([1, 2], [[2, 1.2], [1.2, 1]], size=20_000).T
    outline = ellipse(x, y)
    assert outline is not None
    inside = matplotlib.path.Path(outline).contains_points(np.stack([x, y], axis=1)).mean()
    assert inside == pytest.approx(0.95, abs=0.005)
    assert ellipse(x[:2], y[:2]) is None
    assert ellipse(x[:9], 2 * x[:9]) is None


def test_regression_agrees_with_scipy() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=12)
    y = 2 - 3 * x + rng.normal(size=12)
    fit = stats.linregress(x, y)
    fitted, low, high = regression(x, y, np.array([0.0, x.mean()]))
    assert fitted[0] == pytest.approx(fit.intercept)
    reach = stats.t.ppf(0.975, 10) * fit.intercept_stderr
    assert (low[0], high[0]) == pytest.approx((fit.intercept - reach, fit.intercept + reach))
    assert fitted[1] == pytest.approx(y.mean())


def test_log_limits_hold_the_values_and_two_powers_of_ten() -> None:
    assert log_limits([0.02, 20]) == pytest.approx((0.02 / 10**0.15, 20 * 10**0.15))
    assert log_limits([1e-10, 1e10]) == pytest.approx((1e-10 / 10**0.6, 10**10.6))  # three parts in a hundred
    for values in ([0.02, 3], [5.0], [1.0], [0.1, 1], [12, 99]):
        low, high = log_limits(values)
        assert low < min(values)
        assert max(values) < high
        assert np.floor(np.log10(high)) - np.ceil(np.log10(low)) >= 1


@pytest.mark.parametrize(("count", "rows"), [(0, []), (3, [3]), (4, [4]), (5, [3, 2]), (8, [4, 4]), (9, [3, 3, 3])])
def test_rows_of_panels_are_even(count: int, rows: list[int]) -> None:
    items = [str(item) for item in range(count)]
    found = in_rows(items, 4)
    assert [len(row) for row in found] == rows
    assert [item for row in found for item in row] == items


def test_ticks_stand_on_checkpoints_and_do_not_collide(tmp_path: Path) -> None:
    with drawing(tmp_path / "x", width=2, height=2) as figure:
        axis = figure.subplots()
        fit_integers(axis, [1000, 2000, 3000, 4000, 5000, 10000, 15000])
        ticks = list(axis.get_xticks())
        assert ticks[-1] == 15000
        assert set(ticks) <= {1000, 2000, 3000, 4000, 5000, 10000, 15000}
        assert min(np.diff(ticks)) >= 0.2 * 14000


def test_the_legend_names_each_series_once(tmp_path: Path) -> None:
    with drawing(tmp_path / "x", width=3, height=2) as figure:
        axes = figure.subplots(1, 2)
        for axis in axes:
            axis.plot([0, 1], label="a")
        axes[1].plot([1, 0], label="b")
        before = figure.get_figheight()
        legend_above(figure, list(axes))
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
        assert figure.get_figheight() > before


def test_every_caption_belongs_to_something_drawn_or_written() -> None:
    captions = {path.stem for path in (ROOT / "workflow" / "report").glob("*.rst")}
    expected = {f"figure_{name}" for name in FIGURES} | {f"table_{name}" for name in TABLES}
    assert captions == expected | {"table_claims", "explore", "provenance", "data", "workflow"}
    for name in captions - {"workflow"}:
        title, line = (ROOT / "workflow" / "report" / f"{name}.rst").read_text(encoding="utf-8").splitlines()[:2]
        assert line == "=" * len(title), f"{name}: the first line is the title that the report lists it under"


def test_published_curves_stand_beside_ours_in_panels_of_their_own_family(
    gathered: Path, drawn: list[Figure], tmp_path: Path
) -> None:
    published = tmp_path / "published"
    shutil.copytree(PUBLISHED, published)
    FIGURES["side_by_side"](gathered, tmp_path / "x", dataset="counterfact", published=published)
    (left, independent, *paper) = drawn[0].axes
    assert "accuracy" in left.get_ylabel()
    assert [axis.get_title("left").replace("\n", ", ") for axis in drawn[0].axes] == [
        "ours, tiny", "independent, LLaMA3-8B", "the paper, LLaMA3-8B", "the paper, Qwen2.5-7B",
    ]  # fmt: skip
    lines = {line.get_label(): line.get_xydata().tolist() for line in independent.get_lines()}
    assert lines["AlphaEdit"] == [[2000, 95.5], [5000, 88.4], [10000, 31.5]]
    points = {line.get_label(): line.get_xydata().tolist() for line in paper[0].get_lines()}
    assert points["SPHERE"] == [[15000, 52.89]]
    assert "Pre-edited" not in points
    table = pd.read_csv(published / "independent.csv")
    table.assign(family="success").to_csv(published / "independent.csv", index=False)
    FIGURES["side_by_side"](gathered, tmp_path / "x", dataset="counterfact", published=published)
    other = next(axis for axis in drawn[1].axes if axis.get_title("left").startswith("independent"))
    rows = {round(axis.get_position().y0, 3) for axis in drawn[1].axes if axis.get_visible() and axis is not other}
    assert len(rows) == 1
    assert round(other.get_position().y0, 3) not in rows, "another family stands in another row"
    assert "success" in other.get_ylabel()
