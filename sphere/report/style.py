"""One look for every figure: type, widths, and one colour, marker and line style a method, wherever it appears.

Colours stay apart under red-, green- and blue-blindness; in grey the marker and the dash pattern tell methods apart.
A method and its `+sphere` variant share colour and marker: the variant's marker is open, the gaps of its dash pattern
are wide and its bars are hatched. A figure is one column or one page wide (those of neurons are as wide as their
panels), and no text is smaller than 7 pt. Files are the same bytes on every run: fixed SVG ids, no creation dates, no
user matplotlibrc.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from sphere.config.names import IN_CONTEXT, PRE_EDITED
from sphere.files import write_atomically
from sphere.report.tables.layout import base_of, is_headline, method_label

COLUMN = 3.3  # inches: one column of a two-column page
PAGE = 6.75  # inches: the whole page
FORMATS = ("pdf", "svg", "png")

RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so every machine draws the same
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.linewidth": 0.4,
    "grid.color": "#E3E3E3",
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "lines.markeredgewidth": 0.8,
    "hatch.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "savefig.dpi": 300,
    "svg.hashsalt": "sphere",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}
METADATA: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None, "ModDate": None}, "svg": {"Date": None}, "png": {}}

Dash = str | tuple[float, tuple[float, ...]]  # of a tuple: offset, then dash, gap, dash, gap ... in line widths


@dataclass(frozen=True)
class Look:
    """How one series is drawn, wherever it appears."""

    label: str
    colour: str
    marker: str
    dash: Dash
    filled: bool = True

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of Axes.plot and Axes.errorbar."""
        face = self.colour if self.filled else "white"
        size = RC["lines.markersize"] * (1.7 if self.marker == "*" else 1.0)  # a star is mostly tips
        return {"label": self.label, "color": self.colour, "marker": self.marker, "linestyle": self.dash,
                "markerfacecolor": face, "markeredgecolor": self.colour, "markersize": size}  # fmt: skip

    @property
    def points(self) -> dict[str, Any]:
        """Keywords of Axes.scatter."""
        return {"label": self.label, "marker": self.marker, "facecolor": self.colour if self.filled else "white",
                "edgecolor": self.colour}  # fmt: skip


SOLID: Dash = "-"
_KNOWN: dict[str, tuple[str, str, Dash]] = {
    PRE_EDITED: ("#444444", "None", (0, (6, 2))),
    IN_CONTEXT: ("#7800F0", "None", (0, (2, 2))),
    "ft": ("#999933", "v", (0, (1, 1))),
    "rome": ("#DDAA33", "<", (0, (4, 1, 1, 1))),
    "memit": ("#66BBEE", "o", (0, (5, 1.5))),
    "memit-seq": ("#009E8E", "s", (0, (2.5, 1))),
    "prune": ("#117733", "^", (0, (4, 1, 1, 1, 1, 1))),
    "rect": ("#AA4499", "D", (0, (4, 1, 4, 1, 1, 1))),
    "revive": ("#882255", ">", (0, (3, 1, 1, 1, 1, 1, 1, 1))),
    "encore": ("#EE8877", "p", (0, (10, 2))),
    "alphaedit": ("#0055A5", "h", (0, (8, 1.5, 1.5, 1.5))),
    "sphere": ("#D5330E", "*", SOLID),
    "evoedit": ("#3E7A5C", "d", (0, (7, 1, 2, 1))),
    "betaedit": ("#7A5C3E", "X", (0, (3, 1.5))),
    "lyaplock": ("#A05195", "P", (0, (2, 1, 2, 1, 1, 1))),
    "rotate": ("#222222", "8", (0, (1.5, 1.5))),
}
_WIDER = 2.0  # line widths by which the gaps of a `+sphere` variant are wider
_SPARE_COLOURS = ("#5B4B8A", "#7A5C3E", "#3E7A5C", "#A05195")
_SPARE_MARKERS = ("X", "P", "d", "8")


def look(method: str) -> Look:
    """The one look of a method, the same in every figure.

    A method of your own gets one from its name; one under other settings (``NAME@KEY=VALUE``) keeps NAME's colour.
    """
    label = method_label(method)
    if is_headline(method):
        return Look(label, *_KNOWN["sphere"])
    base = base_of(method)
    name = base or method
    if name in _KNOWN:
        colour, marker, dash = _KNOWN[name]
    else:
        pick = crc32(name.encode())
        colour, marker = _SPARE_COLOURS[pick % 4], _SPARE_MARKERS[pick // 4 % 4]
        dash = (0, (2.0 + pick // 16 % 4, 1.0))
        colour = _KNOWN.get(name.partition("@")[0], (colour,))[0]
    return Look(label, colour, marker, dash if base is None else _wide_gaps(dash), filled=base is None)


def _wide_gaps(dash: Dash) -> Dash:
    if isinstance(dash, str):
        return dash
    offset, pattern = dash
    return offset, tuple(length + _WIDER * (place % 2) for place, length in enumerate(pattern))


METRIC_LOOKS = {
    "efficacy": Look("Efficacy", "#0072B2", "o", SOLID),
    "generalization": Look("Generalization", "#E69F00", "s", (0, (5, 1.5))),
    "specificity": Look("Specificity", "#009E73", "^", (0, (3, 1, 1, 1))),
}
ENERGY_LOOK = Look("HE change (right axis)", "#222222", "d", (0, (1, 1)), filled=False)


@contextmanager
def drawing(stem: Path, *, width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` x `height` inches in our look, written to stem.pdf, stem.svg and stem.png at the end."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.draw_without_rendering()  # lay out once, the same for every format
        figure.set_layout_engine("none")
        for suffix in FORMATS:
            with write_atomically(stem.with_name(f"{stem.name}.{suffix}")) as path:
                figure.savefig(path, format=suffix, metadata=METADATA[suffix])


def say_nothing_to_draw(stem: Path, reason: str) -> None:
    """In place of a figure without data: one line that says what is missing. Nothing is made up."""
    with drawing(stem, width=COLUMN, height=0.9) as figure:
        figure.text(0.5, 0.5, f"Not drawn: {reason}", ha="center", va="center", wrap=True, color="#444444")


def width_of(columns: int) -> float:
    """Width in inches of a figure with so many panels side by side."""
    return COLUMN if columns == 1 else PAGE


def grid(figure: Figure, rows: int, columns: int, **options: Any) -> NDArray[Any]:
    """Axes (rows, columns) with light grid lines behind the data."""
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for each in axes.flat:
        each.grid(True)
    return np.asarray(axes)


def legend_above(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend above all panels, each label once, in order of first appearance; the figure grows to hold it."""
    entries: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    columns = _columns_that_fit(list(entries), figure.get_figwidth())
    figure.set_figheight(figure.get_figheight() + 0.16 * -(-len(entries) // columns))
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=columns, columnspacing=1.2)


def _columns_that_fit(labels: list[str], width: float) -> int:
    """Legend columns in as few rows as go into `width` inches, no more of them than fill these rows."""
    for columns in range(len(labels), 1, -1):
        parts = np.array_split(np.array([len(label) for label in labels]), columns)  # as matplotlib shares them out
        if sum(0.52 + 0.06 * int(part.max()) for part in parts) <= width:
            return -(-len(labels) // -(-len(labels) // columns))
    return 1


def log_limits(values: ArrayLike) -> tuple[float, float]:
    """Limits of a log axis with room around the positive values and at least two labelled powers of ten."""
    exponents = np.log10(np.asarray(values, dtype=np.float64))
    low, high = float(exponents.min()), float(exponents.max())
    if np.floor(high) - np.ceil(low) < 1:  # fewer than two powers of ten among the values
        low, high = float(np.floor(low)), max(float(np.ceil(high)), float(np.floor(low)) + 1)
    room = max(0.15, 0.03 * (high - low))  # a point on the edge of a long axis is seen whole
    return 10 ** (low - room), 10 ** (high + room)


def thousands(axes: Axes) -> None:
    """x ticks as whole numbers with commas, wherever they are."""
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def fit_integers(axes: Axes, values: Iterable[float]) -> None:
    """At most five x ticks, at values that were measured."""
    present = sorted({int(value) for value in values})
    step = max(1, -(-len(present) // 5))
    shown = present[::-1][::step][::-1]  # the last checkpoint is always one
    # a tick closer than a fifth of the axis to the next would run into its label
    span = (present[-1] - present[0]) or 1
    kept = shown[-1:]
    for value in reversed(shown[:-1]):
        if kept[0] - value >= 0.2 * span:
            kept.insert(0, value)
    axes.set_xticks(kept, [f"{value:,}" for value in kept])
