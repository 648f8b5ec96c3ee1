"""config/published: the paper's own figures, read strictly, since a value that is misread is shown as the paper's."""

from __future__ import annotations

import csv
from math import isfinite, nan
from pathlib import Path

import pandas as pd

from sphere.errors import InputError
from sphere.methods import nearest

_CELLS = {"zsre": ("eff", "gen", "spe"), "cf": ("eff", "gen", "spe", "flu", "consis")}
WORDS: dict[str, tuple[str, ...]] = {
    "table1_main": ("model", "method"),
    "table2_runtime": ("model",),
    "sensitivity": (),
    "spearman": ("method",),
    "claims": ("id", "claim", "statistic"),
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
    "claims": (),
}
"""File -> its columns of numbers; an empty cell is one the paper does not have."""


def read_published(folder: Path, name: str) -> pd.DataFrame:
    """``folder``/name.csv; InputError, naming file, row and column, for anything but numbers in the known columns."""
    path = folder / f"{name}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = list(csv.reader(file, strict=True)) or [[]]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): see config/published/README.md") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not CSV in UTF-8 ({error})") from None
    known = (*WORDS[name], *NUMBERS[name])
    for column in header:
        if column not in known or header.count(column) > 1:
            fault = "stands twice" if column in known else f"is unknown{nearest(column, known)}"
            raise InputError(f"{path}: column {column!r} {fault}")
    if missing := [column for column in known if column not in header]:
        raise InputError(f"{path}: no column {missing[0]!r}: add it")
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise InputError(f"{path}: row {number} has {len(line)} cells, the header {len(header)}")
    frame = pd.DataFrame(lines, columns=header, dtype=str)
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
