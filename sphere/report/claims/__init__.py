"""The paper's claims and two of ours (config/published/claims.csv), each tested on a study's gathered tables.

Every claim becomes one number a seed; the verdict comes from its 95 % interval over seeds (Student's t), in a study of
one order from a bootstrap over its records, which says nothing of other orders (``replicates``):

    reproduced        the interval lies wholly on the side the claim says
    not reproduced    it does not: it includes the other side, or lies there
    not tested here   the study lacks what the test needs, or has not measured it yet; the reason says what
    too few points    C1: its streams have fewer checkpoints than a rank correlation needs
    trend only        C1: both curves change with the edits, but not together from one checkpoint to the next
    holds, vacuous    C3: the bound is never broken, and no method comes near it

Of ours (``source``: ours) the first two are `holds` and `does not hold`; they are tested on this project's controls,
which the paper's claims leave out. `effect` is always given where it can be computed, with or without a verdict. C3 is
a theorem, so it is held to every batch and needs no interval. Parts (per dataset, method or metric) are in
claims_detail.csv. What each rule asks for (checkpoints, methods, a bound's nearness) is a constant of ``hypotheses``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sphere.errors import InputError
from sphere.files import write_atomically, write_csv
from sphere.report.claims.controls import OURS
from sphere.report.claims.evidence import (
    Evidence,
    Finding,
    Part,
    UntestableError,
    numbers,
)
from sphere.report.claims.hypotheses import TESTS as PAPER
from sphere.report.published import read_published
from sphere.report.tables.layout import is_control
from sphere.report.tables.summaries import load
from sphere.report.verdicts import HOLDS, NOT_TESTED, claimed, measured

__all__ = ["TESTS", "check_claims"]

TESTS = PAPER | OURS
COLUMNS = (
    "id",
    "source",
    "claim",
    "statistic",
    "effect",
    "unit",
    "ci_low",
    "ci_high",
    "ci_kind",
    "n_seeds",
    "verdict",
    "reason",
)
NEEDED = {"C3": ("energy.csv",), "C5": ("general_ability.csv",), "C7": ("timing.csv",)}
"""The files of every state that a claim is about; of the claims that are not here `ENDS`."""
ENDS = ("editing.csv", "energy.csv")
DETAIL = ("id", "part", "statistic", "effect", "unit", "ci_low", "ci_high", "ci_kind", "n_seeds")


def check_claims(tables: Path, published: Path, out: Path) -> pd.DataFrame:
    """Test every claim of published/claims.csv on the tables; write out/claims.csv, .md and claims_detail.csv."""
    whole = Evidence.read(tables)
    methods = whole.without_controls()
    claims = read_published(published, "claims")
    unknown = sorted(set(claims["id"]) - set(TESTS))
    if unknown:
        raise InputError(
            f"{published / 'claims.csv'}: no test for claim {unknown[0]}: add one to sphere/report/claims/hypotheses.py"
        )
    missing = [Path(path) for path in load(tables, "missing")["path"].astype(str)]
    rows, details = [], []
    for claim in claims.to_dict("records"):
        try:
            found = TESTS[claim["id"]](whole if claim["source"] == "ours" else methods)
        except UntestableError as lacking:
            found = Finding(Part("", str(claim["statistic"]), "", {}), NOT_TESTED, str(lacking))
        if lacks := _lacks(claim["id"], missing, controls=claim["source"] == "ours"):
            found = replace(found, verdict=NOT_TESTED, reason=f"{lacks}; so far: {found.reason}")
        line = {key: claim[key] for key in ("id", "source", "claim")} | numbers(found.whole)
        verdict = HOLDS.get(found.verdict, found.verdict) if claim["source"] == "ours" else found.verdict
        rows.append({**line, "verdict": verdict, "reason": found.reason})
        details += [{"id": claim["id"], "part": part.name, **numbers(part)} for part in (*found.parts, found.whole)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_csv(table, out / "claims.csv")
    write_csv(pd.DataFrame(details, columns=list(DETAIL)), out / "claims_detail.csv")
    with write_atomically(out / "claims.md") as path:
        path.write_text(as_markdown(table), encoding="utf-8")
    return table


def _lacks(claim: str, missing: Iterable[Path], *, controls: bool) -> str:
    """What is not measured yet of the states that a claim is about; empty where all is."""
    states = [path for path in missing if path.name in NEEDED.get(claim, ENDS) and path.parent.name.startswith("edits")]
    count = sum(controls or not is_control(path.parts[-4]) for path in states)
    return f"not all of it is measured yet (missing files: {count})" if count else ""


def as_markdown(table: pd.DataFrame) -> str:
    """One line a claim: what was measured, its interval, the verdict and why."""
    lines = ["| | Claim | Measured here | Verdict | Why |", "| --- | --- | --- | --- | --- |"]
    for row in table.to_dict("records"):
        cells = [row["id"], claimed(row), measured(row), f"**{row['verdict']}**", row["reason"]]
        lines.append("| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
