"""Two claims of this project's, not the paper's, tested on its controls: is the energy the cause?

If collapse comes of a moving HE, an editor that cannot move it should forget less than its twin that can (C9), and
moving HE while the function stays should harm (C10).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from sphere.config.names import PRE_EDITED
from sphere.report.claims.evidence import (
    Evidence,
    Finding,
    Part,
    UntestableError,
    judge,
    place,
    pooled,
    said_of,
    stops,
)
from sphere.report.claims.hypotheses import PLACE, difference
from sphere.report.tables.layout import METRICS, ROTATION, TWIN, method_label, scattered_pairs
from sphere.report.tables.trajectories import RUN, at_last_checkpoint
from sphere.report.verdicts import REPRODUCED, signed


def constant_energy_lasts(evidence: Evidence) -> Finding:
    """C9: what the rotation loses from the first to the last checkpoint, against MEMIT-seq, whose objective it has.

    Both between the same checkpoints. An editor that edits little has little to lose, so the rotation has to end
    higher as well.
    """
    if missing := [name for name in (ROTATION, TWIN) if name not in evidence.methods]:
        raise UntestableError(f"{method_label(missing[0])} was not run")
    known = evidence.paths[evidence.paths["method"].isin([ROTATION, TWIN])]
    both = known.groupby([*PLACE, "seed", "edits"])["method"].transform("nunique") == 2
    known = known[both].sort_values("edits", kind="stable")
    runs = known.groupby(list(RUN), sort=False)
    if known.empty or (runs["edits"].nunique() < 2).any():
        raise UntestableError("needs two checkpoints or more of both")
    first, last = (runs.nth(place_in_run).set_index(list(RUN))[list(METRICS)] for place_in_run in (0, -1))
    change, end = (last - first).reset_index(), last.reset_index()
    parts = _parts(change, ROTATION, TWIN, "change since the first checkpoint, rotation minus MEMIT-seq")
    whole = pooled(
        "all", "rotation minus MEMIT-seq: change of the metrics' mean since the first checkpoint", "points", parts
    )
    ends = pooled(
        "all, end",
        "rotation minus MEMIT-seq after the last checkpoint",
        "points",
        _parts(end, ROTATION, TWIN, "after the last checkpoint, rotation minus MEMIT-seq"),
    )
    said = "the editor that cannot move the energy"
    verdict, reason = judge(whole.interval, f"{said} forgets less", f"{said} is not shown to forget less", above=0)
    second, _ = judge(ends.interval, "", "", above=0)
    if verdict == REPRODUCED and second != REPRODUCED:
        verdict = second
        reason = f"{said} loses less, but has less to lose: it is not shown to end higher"
    measured = change[(change["method"] == ROTATION) & (change["seed"] >= 0)]  # no replicates
    lost = -measured[list(METRICS)].mean(axis=1).mean()
    moved = " and ".join(f"{_moved(evidence, method)} % under {method_label(method)}" for method in (ROTATION, TWIN))
    return Finding(
        whole,
        verdict,
        f"{reason}; at the end it is {said_of(ends)} above; HE moves by {moved}; the rotation itself loses "
        f"{signed(lost)} points{stops(evidence, ROTATION, TWIN)}",
        [*parts, ends],
    )


def energy_alone_harms(evidence: Evidence) -> Finding:
    """C10: a method whose energy is moved by a set share, minus the method itself, after the last checkpoint."""
    pairs = scattered_pairs(evidence.methods)
    if not pairs:
        raise UntestableError("no method was run both with and without scatter")
    final, parts, said = at_last_checkpoint(evidence.paths), list[Part](), list[str]()
    for base, moved in pairs:
        parts += _parts(final, moved, base, f"{moved} minus {base}")
        shares = [_moved(evidence, name) for name in (moved, base)]
        said.append(f"HE moves by {shares[0]} % instead of {shares[1]} % under {method_label(base)}")
    whole = pooled("all", "with scatter minus without, metrics' mean after the last checkpoint", "points", parts)
    verdict, reason = judge(
        whole.interval, "moving the energy alone harms", "moving the energy alone is not shown to harm", below=0
    )
    reason = "; ".join([reason, *said, *_ability(evidence, pairs)])
    return Finding(whole, verdict, reason + stops(evidence, *(name for pair in pairs for name in pair)), parts)


def _parts(frame: pd.DataFrame, first: str, second: str, statistic: str) -> list[Part]:
    """first minus second in every metric, one part a model, dataset and metric."""
    long = frame.melt([*RUN], list(METRICS), "metric", "value").dropna(subset=["value"])
    parts = []
    for (model, dataset, metric), own in long.groupby([*PLACE, "metric"], sort=False):
        by_seed = difference(own, first, second)
        if by_seed:
            parts.append(Part(f"{place(model, dataset)}, {metric}", statistic, "points", by_seed))
    return parts


def _moved(evidence: Evidence, method: str) -> str:
    """The furthest that HE was from its pretrained value, in percent."""
    own = evidence.batches.loc[evidence.batches["method"] == method, "he_change"].abs()
    return signed(float(own.max())) if own.notna().any() else "an unknown share of"


def _ability(evidence: Evidence, pairs: list[tuple[str, str]]) -> list[str]:
    if evidence.ability.empty:
        return []
    final = at_last_checkpoint(evidence.ability[evidence.ability["method"] != PRE_EDITED])
    means = 100 * final.groupby("method")["mean"].mean()
    known = [means[moved] - means[base] for base, moved in pairs if {base, moved} <= set(means.index)]
    return [f"general ability changes by {signed(float(np.mean(known)))} points"] if known else []


OURS: dict[str, Callable[[Evidence], Finding]] = {"C9": constant_energy_lasts, "C10": energy_alone_harms}
