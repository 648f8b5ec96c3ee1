"""Seconds: operations and bytes over the rates of ``MachineSettings``. No torch import.

An estimate, with texts as long as CounterFact's and zsRE's are on average.
"""

from __future__ import annotations

from math import ceil

from sphere.config.machine import MachineSettings
from sphere.config.model import ModelConfig
from sphere.config.study import StudyConfig
from sphere.config.values import ValueSettings
from sphere.editing.methods import Method
from sphere.editing.solvers.base import ClosedFormSolver, GradientSolver
from sphere.models.batching import DEFAULT_TOKEN_BUDGET
from sphere.study.plan.footprint import Footprint
from sphere.study.plan.jobs import Texts
from sphere.study.plan.traits import accumulates, one_at_a_time, projected, restrains, tokens_of

TERA = 1e12
PASS = 0.02
"""Seconds a forward pass takes at least, however small: launching its kernels."""
EIGEN = 40
"""Operations of a symmetric eigendecomposition over n^3: about 9, at a fifth or so of a matrix product's speed."""
EPOCHS = 25
"""Passes over a batch of a gradient solver that does not say how many it makes."""


class Durations:
    """What one model's passes, batches and measurements take."""

    def __init__(self, footprint: Footprint, machine: MachineSettings) -> None:
        self.model: ModelConfig = footprint.model
        self.study: StudyConfig = footprint.study
        self.sizes, self.folder, self.machine = footprint.sizes, footprint.folder, machine
        self.gpu = self.model.resources.gpu > 0

    def flops(self, *, model: float = 0, single: float = 0, double: float = 0) -> float:
        """Seconds of operations in the model's precision, in float32 and in float64."""
        if not self.gpu:
            return (model + single + double) / (self.machine.cpu_tflops * TERA)
        own = {2: self.machine.tflops, 4: self.machine.tflops_float32, 8: self.machine.tflops_float64}
        return (
            model / own[self.sizes.bytes] + single / self.machine.tflops_float32 + double / self.machine.tflops_float64
        ) / TERA

    def generating(self, rows: float, batch: int, tokens: int) -> float:
        """Seconds of greedy generation: a step waits for the arithmetic or for the weights to be read."""
        steps = ceil(rows / batch) * tokens
        read = 0 if not self.gpu else self.folder / (self.machine.bandwidth * TERA)
        return steps * max(PASS, read, self.flops(model=2 * batch * self.sizes.parameters))

    def batch_seconds(self, method: Method, texts: Texts, earlier: float = 0) -> float:
        """Seconds of one batch of edits, its energy not counted; ``earlier`` edits were made before it, on average."""
        s, n, solver = self.sizes, self.study.batch_size, method.solver
        values = method.value_settings(self.model.values)
        layers = method.edited_layers(self.model.layers, self.model.values)
        many, last = len(layers), layers[-1]
        d_out, d_in = s.shape.width, s.shape.inner
        row = tokens_of(self.model, texts)
        if isinstance(solver, GradientSolver):
            n += round(earlier) if solver.joint else 0
            tokens, steps = n * (texts.prompt + texts.target), getattr(solver, "epochs", EPOCHS)
            trained = steps * tokens * (2 * s.parameters + 2 * ((s.shape.depth - last) * s.layer + s.head))
            return max(self.flops(model=trained), steps * ceil(n / getattr(solver, "minibatch", n)) * 2 * PASS)
        micro = ceil(n * row / DEFAULT_TOKEN_BUDGET)
        groups = n if one_at_a_time(method) else micro
        frozen = method.shares_targets(self.model.values)  # found once, by jobs of their own
        found_at = {"spread": [last], "ends": list(layers), "replay": [layers[0]]}[values.residual]
        work = 0.0 if frozen else sum(self.target_work(n, texts, values, layer) for layer in found_at)
        rounds = many + (1 if accumulates(method) else 0)
        work += rounds * 2 * n * row * (last + 1) * s.layer
        passes = (0 if frozen else len(found_at) * groups * (2 + 2 * values.steps)) + rounds * groups
        solved = 0.0
        if one_at_a_time(method):
            solved = n * 2 * d_out * d_in
        elif isinstance(solver, ClosedFormSolver):
            solved = d_in**3 / 3 + 2 * d_in**2 * (d_out + n)
            solved += (4 * d_in**3 + 2 * d_in**2 * d_out) if "key_spectrum" in solver.needs else 0
            solved += 2 * d_in**2 * n if accumulates(method) else 0
        solved += 4 * d_out**2 * d_in * projected(method)
        solved += EIGEN * d_out**2 * d_in if restrains(method) else 0  # the singular values of the whole change
        return max(self.flops(model=work, double=many * solved), passes * PASS)

    def target_work(self, n: int, texts: Texts, values: ValueSettings, last: int) -> float:
        """Operations of finding the target values of ``n`` requests at layer ``last``."""
        s = self.sizes
        above = (s.shape.depth - 1 - last) * s.layer
        scored = n * ((self.model.contexts.count + 1) * texts.target + 1) * s.head
        steps = values.steps * 4 * (n * (self.model.contexts.count + 1) * texts.tail * above + scored)
        return 2 * n * tokens_of(self.model, texts) * s.parameters + steps

    def energy_seconds(self, layers: int) -> float:
        """Seconds of measuring the energy before and after one batch."""
        return self.flops(single=layers * 4 * self.sizes.shape.width**2 * self.sizes.shape.inner)

    def taken(self, edits: int) -> int:
        """Of so many edits, those that an evaluation takes."""
        return min(edits, self.study.evaluate_records or edits)

    def evaluation_seconds(self, records: int, texts: Texts) -> float:
        scoring = self.flops(model=2 * records * texts.scored * self.sizes.parameters)
        scoring = max(scoring, ceil(records * texts.scored / DEFAULT_TOKEN_BUDGET) * PASS)
        scoring += self._strict_seconds(records, texts)
        settings = self.study.generation
        if settings is None:
            return scoring
        some = min(settings.records or records, records)
        batch = max(1, DEFAULT_TOKEN_BUDGET // settings.length)
        free = self.generating(some * texts.generations, batch, settings.length - texts.prompt)
        short = texts.scored // (texts.prompt + texts.target) / 2 * some if settings.family else 0
        return scoring + free + self.generating(short, DEFAULT_TOKEN_BUDGET // 20, 2 * texts.target)

    def _strict_seconds(self, records: int, texts: Texts) -> float:
        """Seconds of whole free answers; one that ends early is not counted as shorter."""
        settings = self.study.strict
        if settings is None:
            return 0.0
        asked = min(settings.records or records, records) * texts.scored // (texts.prompt + texts.target) / 2
        once = self.generating(asked, DEFAULT_TOKEN_BUDGET // (texts.prompt + settings.tokens), settings.tokens)
        return len(settings.forms) * once
