"""What a solver is given, what it gives back, and what it must offer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from sphere.editing.component import Component
from sphere.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sphere.models.tokens import Encoded

    Memory = Mapping[str, Tensor]
    """What a solver remembers of one layer, by names of its own."""

SOLVERS: dict[str, type[Solver]] = {}
"""Every registered solver class by name."""


@dataclass(frozen=True)
class LayerProblem:
    """One batch of edits at one layer. Weights, keys and residuals are float64 on one device; n keys.

    Raises InputError on a wrong dtype or shape, NumericalError on NaN or infinity.
    """

    weight: Tensor
    """(d_out, d_in) the weight as it stands."""
    keys: Tensor
    """(d_in, n) one key a request: its mean over contexts."""
    residuals: Tensor
    """(d_out, n) what each output is to change by, already divided by the number of layers left."""
    pretrained: Tensor
    """(d_out, d_in) the weight before any edit, in the precision it is kept in."""
    bare_keys: Tensor | None = None
    """(d_in, n) the keys at the bare prompts, where the residuals were measured; None: they are ``keys``."""
    prepared: Any = None
    """What the solver's ``prepare`` returned for this layer."""
    memory: Memory = field(default_factory=dict)
    """What it remembered of this layer after the batch before; empty at the first."""

    def __post_init__(self) -> None:
        from sphere.geometry.linalg import require_finite

        if self.weight.ndim != 2:
            raise InputError(f"weight has shape {tuple(self.weight.shape)}: give a matrix (d_out, d_in)")
        d_out, d_in = self.weight.shape
        n = self.keys.shape[-1]
        if n == 0:
            raise InputError("keys has no column: give at least one request a batch")
        for name, tensor, shape in (
            ("weight", self.weight, (d_out, d_in)),
            ("keys", self.keys, (d_in, n)),
            ("residuals", self.residuals, (d_out, n)),
            ("bare_keys", self.keys if self.bare_keys is None else self.bare_keys, (d_in, n)),
        ):
            if tuple(tensor.shape) != shape:
                raise InputError(f"{name} has shape {tuple(tensor.shape)}: this problem needs {shape}")
            if str(tensor.dtype) != "torch.float64":
                raise InputError(f"{name} is {tensor.dtype}: solves are in float64, convert it first")
            require_finite(tensor, name)
        for name, tensor in self.memory.items():
            require_finite(tensor, name)
        if self.pretrained.shape != self.weight.shape:
            raise InputError(f"pretrained has shape {tuple(self.pretrained.shape)}: the weight has {(d_out, d_in)}")


@dataclass(frozen=True)
class Solution:
    """What a solver makes of a problem."""

    update: Tensor
    """dW (d_out, d_in), float64 on the problem's device."""
    memory: Memory = field(default_factory=dict)
    """What ``settle`` is to know of it; as ``settle`` is by default, what the next batch's problem will hold."""


class Solver(Component):
    """A component that makes updates.

    What it needs to know of earlier batches it returns as named tensors, which the state keeps.
    """

    single_layer: ClassVar[bool] = False
    """Whether it edits one layer: its own setting ``layer``, or the last that the model's configuration names."""

    def editable_share(self, prepared: Any, memory: Memory) -> float:
        """The share of the key directions that updates may use, for energy.csv; NaN where none is kept out."""
        return float("nan")

    def remembers(self, d_out: int, d_in: int, edits: int) -> dict[str, int]:
        """Name -> numbers of eight bytes that it remembers of a (d_out, d_in) layer after ``edits``, at most.

        The plan counts files and memory by it.
        """
        return {}


class ClosedFormSolver(Solver):
    """A solver whose update of a layer is a formula."""

    one_at_a_time: ClassVar[bool] = False
    """Whether a batch is edited request by request (ROME). Such a solver remembers nothing."""
    needs_keys_after: ClassVar[bool] = False
    """Whether ``settle`` is given the batch's keys under the edited weights."""

    @abstractmethod
    def solve(self, problem: LayerProblem) -> Solution:
        """The update, and what is to be remembered.

        Raises InputError if the problem lacks what the solver needs, NumericalError if its system is
        singular.
        """

    def settle(self, problem: LayerProblem, solution: Solution, applied: Tensor, keys: Tensor | None) -> Memory:
        """What is remembered of this layer for the next batch; called when the whole batch is applied.

        ``applied`` (d_out, d_in) is what became of the solution's update: post-processes of every scope have passed
        it. ``keys`` (d_in, n) are the batch's as they are now, if ``needs_keys_after``.
        """
        return solution.memory


class GradientSolver(Solver):
    """A solver that trains the weight itself."""

    single_layer: ClassVar[bool] = True
    joint: ClassVar[bool] = False
    """Whether ``fit`` trains all edits so far together: it starts from the weight before any edit, not from the weight
    as it stands, and remembers them itself."""
    ends_targets: ClassVar[bool] = False
    """Whether the end-of-text token is learned behind each target."""

    @abstractmethod
    def fit(
        self,
        model: nn.Module,
        parameter: nn.Parameter,
        batch: Sequence[Encoded],
        *,
        prepared: Any,
        memory: Memory,
        pad_id: int,
        device: torch.device | str,
        generator: torch.Generator,
    ) -> Memory:
        """Change ``parameter``, one of ``model``'s own and in its own orientation, in place to fit ``batch``.

        Every item of ``batch`` needs a target. ``generator`` (CPU) orders the minibatches. Returns what is to be
        remembered of the layer, as ``memory`` is what it remembered before.
        """


def register(solver: type[Solver]) -> type[Solver]:
    """Class decorator: make a solver known under its name."""
    if solver.name in SOLVERS:
        raise InputError(f"two solvers are called {solver.name!r}: rename one")
    SOLVERS[solver.name] = solver
    return solver
