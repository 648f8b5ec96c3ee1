"""Bytes: of the files that jobs write, and of what a batch of edits holds. No torch import.

Both follow from the shapes of what the code holds and writes, so they are counts.
"""

from __future__ import annotations

from sphere.config.model import ModelConfig
from sphere.editing.methods import Method
from sphere.editing.solvers.base import ClosedFormSolver, GradientSolver
from sphere.models.batching import DEFAULT_TOKEN_BUDGET
from sphere.study.configuration import Study
from sphere.study.plan.jobs import COUNTERFACT
from sphere.study.plan.shapes import Sizes, shape_of
from sphere.study.plan.traits import accumulates, one_at_a_time, projected, restrains, tokens_of


class Footprint:
    """What one model's files and batches take."""

    def __init__(self, model: ModelConfig, study: Study) -> None:
        self.model, self.study = model, study.study
        self.sizes = Sizes(shape_of(model), model.dtype or "float32")
        self.layers = study.layers_with_statistics(model)
        self.gradients = study.takes_gradients(model)

    # ------------------------------------------------------------------------------------------- files

    @property
    def folder(self) -> float:
        """The model folder; what the hub has is taken to be in the model's precision."""
        return self.sizes.parameters * self.sizes.bytes

    @property
    def statistics_file(self) -> float:
        own = self.sizes.moment + self.model.statistics.probe_keys * self.sizes.shape.inner
        return len(self.layers) * 8 * (own + (self.sizes.shape.width**2 if self.gradients else 0))

    @property
    def null_space_file(self) -> float:
        return len(self.layers) * 8 * self.sizes.moment

    @property
    def directions_file(self) -> float:
        return len(self.layers) * 8 * self.sizes.shape.inner * min(self.sizes.shape.width, self.sizes.shape.inner)

    def state_file(self, method: Method, edits: int | None = None) -> float:
        """Edited weights, for PRUNE those the next batch starts from too, and what the solver remembers.

        After ``edits``, or at the stream's end.
        """
        copies = 2 if restrains(method) else 1
        return self.edited_layers(method) * (
            copies * self.sizes.wide * self.sizes.weight + 8 * self._kept(method, edits)
        )

    def _kept(self, method: Method, edits: int | None = None) -> int:
        """Numbers of eight bytes that the solver remembers of a layer."""
        shape = self.sizes.shape
        return sum(method.solver.remembers(shape.width, shape.inner, edits or self.study.edits).values())

    def edited_layers(self, method: Method) -> int:
        """How many layers it edits."""
        return len(method.edited_layers(self.model.layers, self.model.values))

    def evaluated_weights(self, method: Method) -> float:
        """The part of a state that is evaluated."""
        return self.edited_layers(method) * self.sizes.wide * self.sizes.weight

    def editing_files(self, method: Method) -> float:
        """What a job that edits reads beside a state."""
        spectra = {"null_space": self.null_space_file, "directions": self.directions_file}
        return self.folder + self.statistics_file + sum(spectra[name] for name in method.spectra)

    # ------------------------------------------------------------------------------------------ memory

    def edited_model(self, layers: int) -> float:
        """The model with its edited layers in float32."""
        return self.folder + layers * (self.sizes.wide - self.sizes.bytes) * self.sizes.weight

    def edit_memory(self, method: Method) -> tuple[float, float]:
        """Bytes that one batch of edits holds on the model's device, with the smallest and the full micro-batches.

        What stands all along is the model, the weights before any edit and before the batch, their float64 copies and
        updates, and what the solver keeps of the keys; the largest of the passing phases comes on top.
        """
        s, n = self.sizes, self.study.batch_size
        layers = method.edited_layers(self.model.layers, self.model.values)
        many, solver = len(layers), method.solver
        copies = 3 if restrains(method) else 2
        standing: float = self.edited_model(many) + many * s.weight * (copies * s.wide + 2 * 8)
        held = {"second_moment": s.moment, "key_spectrum": s.moment, "output_moment": s.shape.width**2}
        read = sum(held.get(need, 0) for part in (solver, *method.postprocess) for need in part.needs)
        standing += many * 8 * (read + self._kept(method))
        standing += many * projected(method) * 8 * s.weight
        targets: list[float]
        if isinstance(solver, GradientSolver):
            tokens = min(n, getattr(solver, "minibatch", n)) * (COUNTERFACT.prompt + COUNTERFACT.target)
            trained = s.weight * s.wide * 4  # gradient, two moments of Adam, the weight before
            logits = tokens * s.shape.vocabulary * 3 * s.bytes
            targets = [trained + tokens * (s.shape.depth - layers[0]) * s.saved + logits] * 2
        else:
            row = tokens_of(self.model, COUNTERFACT)
            budgets = (row, max(row, min(DEFAULT_TOKEN_BUDGET, (1 if one_at_a_time(method) else n) * row)))
            above = s.shape.depth - 1 - layers[-1]
            scored = (self.model.contexts.count + 1) * COUNTERFACT.target / row * s.shape.vocabulary * (s.bytes + 3 * 4)
            targets = [tokens * (above * s.saved + scored) for tokens in budgets]
        solving: float = many * 8 * s.weight
        if isinstance(solver, ClosedFormSolver) and not solver.one_at_a_time:
            solving += 3.5 * 8 * s.moment  # two products and their sum, or the system and its factor
        keeping = (many * 8 * s.moment if accumulates(method) else 0) + many * n * 8 * s.shape.inner
        closing = many * s.weight * (s.wide + 8) + 8 * 8 * s.weight  # new weights, solved updates, a post-process
        least, most = (standing + max(each, solving, keeping, closing) for each in targets)
        return least, most
