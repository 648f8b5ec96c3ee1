"""The sentences that carry the findings: their numbers are those of docs/results/, as tables show them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from keep import kept, shown

ROOT = Path(__file__).parents[2]
FIELD = re.compile(r"\{(?P<file>[^|}]+)\|(?P<label>[^|}]+)\|(?P<column>[^|}]+)\|(?P<like>[^}]+)\}")
"""A number of a sentence: file, row, column, and how many digits it is given with."""
LONG, METHODS, CONTROLS = "smollm2-long", "smollm2-methods", "smollm2-controls"
PUBLISHED, SEEDS, PAPER = "smollm2-published", "smollm2-seeds", "smollm2-paper"
ABILITY = "smollm2-ability"

SENTENCES = {
    "docs/results.md": [
        f"energy and loss go together (r_s = {{{LONG}/claims.csv|C2|effect|0.00}})",
        "the rotation, loses its edits as well, from "
        f"{{{LONG}/checkpoints.csv|Rotation (control)|efficacy, 100 edits|0}} % to "
        f"{{{LONG}/checkpoints.csv|Rotation (control)|efficacy, 3,900 edits|0}} %",
        f"SPHERE as tuned outlasts AlphaEdit as tuned ({{{LONG}/checkpoints.csv|SPHERE|efficacy, 3,900 edits|0}} % "
        f"against {{{LONG}/checkpoints.csv|AlphaEdit|efficacy, 3,900 edits|0}} %)",
        f"moves the energy by {{{CONTROLS}/energy.csv|MEMIT-seq + scatter (control)|he_change|0}} %",
        f"in the long stream, with its energy {{{LONG}/energy.csv|MEMIT-seq|he_change|0.00}} % away",
        f"the metrics differed by {{{METHODS}/claims.csv|C10|effect|0.0}} points "
        f"[{{{METHODS}/claims.csv|C10|ci_low|0.0}}, {{{METHODS}/claims.csv|C10|ci_high|0.0}}]",
        f"energy ended at +{{{METHODS}/energy.csv|MEMIT-seq + scatter (control)|he_change|0.0}} %",
        f"the energy ends at +{{{CONTROLS}/energy.csv|MEMIT-seq + scatter (control)|he_change|0.0}} %, where the "
        f"edits alone bring it to +{{{CONTROLS}/energy.csv|MEMIT-seq|he_change|0.000}} %",
        "the five methods that move the energy less end with more of their edits (C2: "
        f"{{{SEEDS}/claims.csv|C2|effect|0.00}}), with published ones it is the other way round "
        f"({{{PUBLISHED}/claims.csv|C2|effect|0.00}})",
        f"edit little (efficacy {{{PUBLISHED}/editing_accuracy.csv|MEMIT|efficacy|0}} and "
        f"{{{PUBLISHED}/editing_accuracy.csv|MEMIT-seq|efficacy|0}} %, specificity "
        f"{{{PUBLISHED}/editing_accuracy.csv|MEMIT|specificity|0}} and "
        f"{{{PUBLISHED}/editing_accuracy.csv|MEMIT-seq|specificity|0}} %)",
        f"at {{{LONG}/energy.csv|Rotation (control)|weight_path|0.0}} it keeps "
        f"{{{LONG}/checkpoints.csv|Rotation (control)|efficacy, 3,900 edits|0}} %, as BetaEdit does at "
        f"{{{LONG}/energy.csv|BetaEdit|weight_path|0.0}}",
        f"changes the three metrics' mean by {{{PAPER}/claims.csv|C6|effect|0.0}} points "
        f"[{{{PAPER}/claims.csv|C6|ci_low|0.0}}, {{{PAPER}/claims.csv|C6|ci_high|0.0}}]",
        f"over checkpoints (C1: {{{PAPER}/claims.csv|C1|effect|0.00}} [{{{PAPER}/claims.csv|C1|ci_low|0.00}}, "
        f"{{{PAPER}/claims.csv|C1|ci_high|0.00}}])",
        f"(C2's {{{PAPER}/claims.csv|C2|effect|0.00}} of five methods)",
        f"the projection takes {{{PAPER}/claims.csv|C7|effect|0.00}} % of the edit time",
        f"sentiment, from {{{ABILITY}/general_ability.csv|Pre-edited|sentiment|0}} % to "
        f"{{{ABILITY}/general_ability.csv|AlphaEdit|sentiment|0}} and "
        f"{{{ABILITY}/general_ability.csv|SPHERE|sentiment|0}} %, while the energy ends at most "
        f"{{{ABILITY}/energy.csv|AlphaEdit|he_change|0.0000}} % away",
        f"gives {{{ABILITY}/general_ability.csv|Pre-edited|sentiment|0.0}} % right answers there before, and "
        f"{{{ABILITY}/general_ability.csv|AlphaEdit|sentiment|0.0}} % (AlphaEdit) and "
        f"{{{ABILITY}/general_ability.csv|SPHERE|sentiment|0.0}} % (SPHERE) after 2,000 edits",
        f"the energy has moved by {{{ABILITY}/energy.csv|AlphaEdit|he_change|0.0000}} and "
        f"{{{ABILITY}/energy.csv|SPHERE|he_change|0.0000}} %",
        f"than AlphaEdit (C5: {{{ABILITY}/claims.csv|C5|effect|0.0}} points [{{{ABILITY}/claims.csv|C5|ci_low|0.0}}, "
        f"{{{ABILITY}/claims.csv|C5|ci_high|0.0}}], ",
        f"(C5, on CounterFact: {{{PAPER}/claims.csv|C5|effect|0.0}} points [{{{PAPER}/claims.csv|C5|ci_low|0.0}}, "
        f"{{{PAPER}/claims.csv|C5|ci_high|0.0}}])",
        f"the mean under published settings is a loss, {{{PUBLISHED}/claims.csv|C6|effect|0.0}} points "
        f"[{{{PUBLISHED}/claims.csv|C6|ci_low|0.0}}, {{{PUBLISHED}/claims.csv|C6|ci_high|0.0}}]",
        f"the unedited model that is told a fact gives {{{LONG}/editing_accuracy.csv|In context|efficacy|0}} %",
        f"MEMIT-seq has lost most at {{{LONG}/energy.csv|MEMIT-seq|he_change|0.00}} %",
        f"EvoEdit's, {{{LONG}/energy.csv|EvoEdit|he_change|0.00}} % of the energy when it stops, and AlphaEdit's, "
        f"{{{LONG}/energy.csv|AlphaEdit|he_change|0.00}} %",
    ],
    "README.md": [
        f"of sentiment, {{{ABILITY}/general_ability.csv|Pre-edited|sentiment|0}} % before, AlphaEdit and SPHERE leave "
        f"{{{ABILITY}/general_ability.csv|AlphaEdit|sentiment|0}} and "
        f"{{{ABILITY}/general_ability.csv|SPHERE|sentiment|0}} %",
        "fall from {smollm2/editing_accuracy.csv|Pre-edited|specificity|0} % to between "
        "{smollm2/editing_accuracy.csv|MEMIT|specificity|0} % (MEMIT) and "
        "{smollm2/editing_accuracy.csv|AlphaEdit|specificity|0} % (AlphaEdit)",
    ],
}
REASONS = [
    (
        "docs/results.md",
        "where it is weakly so (86 steps, −0.195 [−0.331, −0.003])",
        LONG,
        "C1",
        "of 86 steps between checkpoints, ranked within streams, r_s is −0.195 [−0.331, −0.00255]",
    ),
    ("docs/results.md", "moved tells more (−0.90)", LONG, "C2", "the sum of ||dW|| / ||W||: −0.902, p = 1e"),
    ("docs/results.md", "energy tells nothing (0.19, p = 0.53)", LONG, "C2", "weights' path held: 0.19, p = 0.53"),
    ("docs/results.md", "with the energy's held −0.78 (p = 0.002)", LONG, "C2", "energy's held: −0.775, p = 0.0018"),
    ("docs/results.md", "(150 steps, r_s = −0.09 [−0.50, 0.32])", SEEDS, "C1", "r_s is −0.0902 [−0.501, 0.32]"),
    ("docs/results.md", "or published (0.06 [−0.08, 0.19])", PUBLISHED, "C1", "r_s is 0.0561 [−0.0763, 0.188]"),
    ("docs/results.md", "r_s is −0.11 [−0.21, 0.03] in the", LONG, "C1", "stream held −0.113 [−0.206, 0.0284]"),
    ("docs/results.md", "−0.17 [−0.63, 0.29] tuned", SEEDS, "C1", "stream held −0.167 [−0.627, 0.293]"),
    ("docs/results.md", "0.03 [−0.16, 0.22] published", PUBLISHED, "C1", "stream held 0.0319 [−0.161, 0.225]"),
    ("docs/results.md", "0.04 [−0.15, 0.23] under the papers'", PAPER, "C1", "stream held 0.0381 [−0.152, 0.234]"),
    ("docs/results.md", "as little is left, 0.02 [−0.16, 0.13]", LONG, "C1", "place held, 0.0178 [−0.157, 0.13]"),
    ("docs/results.md", "keeps −0.25 [−0.50, 0.01]", "embedded-seeds", "C1", "stream held −0.246 [−0.5, 0.00865]"),
    ("docs/results.md", "weights −0.35 [−0.54, −0.16]", "embedded-seeds", "C1", "held, −0.35 [−0.542, −0.158]"),
    ("docs/results.md", "(40 steps, −0.01 [−0.15, 0.21])", PAPER, "C1", "r_s is −0.0133 [−0.153, 0.213]"),
    ("docs/results.md", "it is 2.3 points [−0.4, 5.1] above", LONG, "C9", "it is 2.27 points [−0.421, 5.12] above"),
    ("README.md", "(−0.90), and beside that energy tells nothing (0.19, p = 0.53)", LONG, "C2", "0.19, p = 0.53"),
    (
        "docs/results.md",
        "it loses 26.7 points of the three metrics' mean",
        LONG,
        "C9",
        "the rotation itself loses 26.7",
    ),
    (
        "docs/results.md",
        "the rotation 13.6; it ends 4.6 points [1.8, 7.5] below",
        CONTROLS,
        "C9",
        "−4.65 points [−7.52, −1.78]",
    ),
    ("docs/results.md", "the rotation loses 18.3 points", METHODS, "C9", "the rotation itself loses 18.3"),
    ("docs/results.md", "outputs move 8,100,000 times", LONG, "C3", "outputs move 8,100,000 times"),
]
"""What the sentences have from the reason of a verdict: page, words there, study, claim, words of the reason."""


def words(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize(("page", "sentence"), [(page, each) for page, some in SENTENCES.items() for each in some])
def test_a_finding_is_said_with_the_numbers_of_its_table(page: str, sentence: str) -> None:
    said = FIELD.sub(
        lambda field: shown(kept([field["file"]], field["label"], field["column"])[0], field["like"]), sentence
    )
    assert said in words(page)


@pytest.mark.parametrize(("page", "said", "study", "claim", "reason"), REASONS)
def test_a_finding_is_said_as_its_verdict_has_it(page: str, said: str, study: str, claim: str, reason: str) -> None:
    assert said in words(page)
    assert reason in kept([f"{study}/claims.csv"], claim, "reason")[0]
