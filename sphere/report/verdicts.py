"""What a verdict on a claim can be, and how a line of claims.csv is said; without the tests, which load SciPy."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

REPRODUCED, NOT_REPRODUCED, NOT_TESTED = "reproduced", "not reproduced", "not tested here"
VACUOUS = "holds, vacuous"
"""A bound that is never broken, and so far from what is bounded that it tells nothing."""
TOO_FEW, TREND = "too few points", "trend only"
"""A correlation of too few points to mean anything; one of two curves that both change with the edits alone."""
HOLDS = {REPRODUCED: "holds", NOT_REPRODUCED: "does not hold"}
"""What a verdict is called where the claim is not the paper's."""
VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_TESTED, VACUOUS, TOO_FEW, TREND, *HOLDS.values())


def claimed(row: Mapping[Any, Any]) -> str:
    """The claim of a line of claims.csv, and whose it is."""
    return f"{row['claim']} (ours, not the paper's)" if row["source"] == "ours" else str(row["claim"])


def measured(row: Mapping[Any, Any]) -> str:
    """Statistic, effect and interval of a line of claims.csv, as far as it has them."""
    said = str(row["statistic"])
    if isfinite(row["effect"]):
        unit = row["unit"] if isinstance(row["unit"], str) else ""  # an empty cell is read as NaN
        said += f": {signed(row['effect'])} {unit}".rstrip()
    if isfinite(row["ci_low"]):
        said += f" [{signed(row['ci_low'])}, {signed(row['ci_high'])}], {row['ci_kind']}, n = {row['n_seeds']}"
    return said


def signed(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
