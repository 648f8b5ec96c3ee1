"""config/published: published figures, read strictly, since a value that is misread is shown as the paper's."""

from __future__ import annotations

from math import isfinite, nan
from pathlib import Path

import pandas as pd

from sphere.errors import InputError, nearest
from sphere.files import read_table

_CELLS = {"zsre": ("eff", "gen", "spe"), "cf": ("eff", "gen", "spe", "flu", "consis")}
WORDS: dict[str, tuple[str, ...]] = {
    "table1_main": ("model", "method", "zsre_family", "cf_family"),
    "table2_runtime": ("model",),
    "sensitivity": (),
    "spearman": ("method",),
    "independent": ("source", "model", "dataset", "family", "method"),
    "claims": ("id", "claim", "statistic", "source"),
}
"""File -> its columns of text."""
NUMBERS: dict[str, tuple[str, ...]] = {
    "table1_main": tuple(
        f"{dataset}_{metric}{end}" for dataset, metrics in _CELLS.items() for metric in metrics for end in ("", "_pm")
    ),
    "table2_runtime": ("edit_s", "projection_s", "ratio_percent"),
    "sensitivity": ("eta", "alpha", "efficacy"),
    "spearman": tuple(
        f"{metric}_{end}" for metric in ("efficacy", "generalization", "specificity") for end in ("r", "p")
    ),
    "independent": ("edits", "efficacy", "generalization", "specificity"),
    "claims": (),
}
"""File -> its columns of numbers; an empty cell is one the paper does not have."""


def read_published(folder: Path, name: str) -> pd.DataFrame:
    """``folder``/name.csv; InputError, naming file, row and column, for anything but numbers in the known columns."""
    path = folder / f"{name}.csv"
    rows = read_table(path)
    known = (*WORDS[name], *NUMBERS[name])
    given = [*rows[0]] if rows else []
    for column in given:
        if column not in known:
            raise InputError(f"{path}: column {column!r} is unknown{nearest(column, known)}")
    if missing := [column for column in known if column not in given]:
        raise InputError(f"{path}: no column {missing[0]!r} in any row: add it")
    frame = pd.DataFrame(rows, dtype=str)
    for column in NUMBERS[name]:
        frame[column] = [_number(cell, f"{path}: row {row}, {column}") for row, cell in enumerate(frame[column], 2)]
    return frame.astype({column: float for column in NUMBERS[name]})


def _number(cell: str, where: str) -> float:
    try:
        value = float(cell) if cell.strip() else nan
    except ValueError:
        value = float("inf")
    if cell.strip() and not isfinite(value):
        raise InputError(f"{where}: {cell!r} is not a number: write one, or leave the cell empty")
    return value
