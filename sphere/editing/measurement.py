"""What is measured of a batch: wall seconds by phase, operations, and the rows of energy.csv."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sphere.editing.operations import Operations
from sphere.geometry.energy import Energy, perturbation, theorem_bound, unit_perturbation

NAN = float("nan")


@dataclass(frozen=True)
class Record:
    """What one batch did; ``energy`` is reproducible to the bit, ``seconds`` is not."""

    edits: int
    batch: int
    energy: list[dict[str, float]]
    """One row a layer: the columns of energy.csv."""
    seconds: dict[str, float]
    """Wall seconds by phase: targets, keys, solve, post-process, projection, energy."""
    operations: float = NAN
    """Floating-point operations an edit, all phases but energy; NaN where they were not counted."""
    retried: str = ""
    """What was not finite at the first attempt, where the batch was made in higher precision."""
    skipped: str = ""
    """Which requests were left out of the batch, and why."""


class Clock:
    """Wall seconds by phase, synchronised with the device; with ``count``, floating-point operations of what edits."""

    def __init__(self, device: torch.device, *, count: bool) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.operations = 0.0 if count else NAN

    def __call__(self, phase: str) -> Phase:
        return Phase(self, phase)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Phase:
    """One phase of a clock, timed as long as its block lasts."""

    def __init__(self, clock: Clock, phase: str) -> None:
        self.clock, self.phase = clock, phase

    def __enter__(self) -> None:
        self.counter = None if self.phase == "energy" or math.isnan(self.clock.operations) else Operations()
        if self.counter is not None:
            self.counter.__enter__()
        self.start = self.clock.now()

    def __exit__(self, *failure: Any) -> None:
        if self.counter is not None:
            self.counter.__exit__(*failure)
            self.clock.operations += self.counter.count
        seconds = self.clock.seconds
        seconds[self.phase] = seconds.get(self.phase, 0.0) + self.clock.now() - self.start


def energy_row(
    layer: int,
    *,
    edits: int,
    batch: int,
    energies: tuple[Energy, Energy],
    weights: tuple[Tensor, Tensor],
    probe_keys: Tensor | None,
    editable_share: float,
) -> dict[str, float]:
    """One row of energy.csv: a layer before and after the batch (``energies``, and ``weights`` (d_out, d_in)).

    Theorem 1 is about an update: its quantities are NaN for batch 0, which is none. The perturbation is measured
    twice: on keys that no edit used (text, ``probe_keys`` (m, d_in)), and in the theorem's own setting, unit rows and
    orthonormal inputs.
    """
    (old, new), (before, after) = energies, weights
    delta, change = new.sum - old.sum, after - before
    bound = measured = turned = NAN
    if batch:
        bound = theorem_bound(delta, old.theorem_constant)
        turned = unit_perturbation(before, after)
        if probe_keys is not None and probe_keys.numel():
            measured = perturbation(change, probe_keys.to(change.device))
    return {
        "edits": edits,
        "batch": batch,
        "layer": layer,
        "he_sum": new.sum,
        "he_mean": new.mean,
        "delta_he": delta,
        "theorem_k": old.theorem_constant,
        "perturbation": measured,
        "unit_perturbation": turned,
        "bound": bound,
        "update_norm": float(change.double().norm()),
        "weight_norm": float(before.double().norm()),
        "editable_share": editable_share,
    }
