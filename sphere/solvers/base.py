"""What a solver is given, and what it must offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from sphere.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sphere.tokens import Encoded

SOLVERS: dict[str, type[Solver]] = {}
"""Every registered solver class by name."""


@dataclass(frozen=True)
class LayerProblem:
    """One batch of edits at one layer. All tensors float64 on one device; n keys.

    Raises InputError on a wrong dtype or shape, NumericalError on NaN or infinity.
    """

    weight: Tensor
    """(d_out, d_in) the weight as it stands."""
    keys: Tensor
    """(d_in, n) one key a request."""
    residuals: Tensor
    """(d_out, n) what each output is to change by, already divided by the number of layers left."""
    second_moment: Tensor | None = None
    """(d_in, d_in) C = E[k k^T] over text; None if the solver needs none."""
    past: Tensor | None = None
    """(d_in, d_in) M, the sum of K K^T over earlier batches; None at the first."""
    basis: Tensor | None = None
    """(d_in, k) orthonormal; spans what updates may touch (``null_space``); for solvers that need it."""

    def __post_init__(self) -> None:
        from sphere.linalg import require_finite

        if self.weight.ndim != 2:
            raise InputError(f"weight has shape {tuple(self.weight.shape)}: give a matrix (d_out, d_in)")
        d_out, d_in = self.weight.shape
        n = self.keys.shape[-1]
        expected = {
            "weight": (self.weight, (d_out, d_in)),
            "keys": (self.keys, (d_in, n)),
            "residuals": (self.residuals, (d_out, n)),
            "second_moment": (self.second_moment, (d_in, d_in)),
            "past": (self.past, (d_in, d_in)),
            "basis": (self.basis, (d_in, self.basis.shape[-1] if self.basis is not None else 0)),
        }
        if n == 0:
            raise InputError("keys has no column: give at least one request a batch")
        for name, (tensor, shape) in expected.items():
            if tensor is None:
                continue
            if tuple(tensor.shape) != shape:
                raise InputError(f"{name} has shape {tuple(tensor.shape)}: this problem needs {shape}")
            if str(tensor.dtype) != "torch.float64":
                raise InputError(f"{name} is {tensor.dtype}: solves are in float64, convert it first")
            require_finite(tensor, name)


class Solver(BaseModel, ABC):
    """The settings of an editing method, and its computation. Fields are its hyperparameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    """What a method row calls it."""
    one_at_a_time: ClassVar[bool] = False
    """Whether a batch is edited request by request (ROME)."""


class ClosedFormSolver(Solver):
    """A solver whose update of a layer is a formula."""

    needs_null_space: ClassVar[bool] = False
    """Whether ``LayerProblem.basis`` must be given: what AlphaEdit's ``editable`` chooses; derive from it."""
    accumulates_keys: ClassVar[bool] = False
    """Whether it reads ``LayerProblem.past``."""

    @property
    def needs_second_moment(self) -> bool:
        """Whether ``LayerProblem.second_moment`` must be given, under these settings."""
        return False

    @abstractmethod
    def solve(self, problem: LayerProblem) -> Tensor:
        """The update dW (d_out, d_in), float64 on the problem's device.

        Raises InputError if the problem lacks what the solver needs, NumericalError if its system is
        singular.
        """


class GradientSolver(Solver):
    """A solver that trains the weight itself."""

    @abstractmethod
    def fit(
        self,
        model: nn.Module,
        parameter: nn.Parameter,
        batch: Sequence[Encoded],
        *,
        pad_id: int,
        device: torch.device | str,
        generator: torch.Generator,
    ) -> None:
        """Change ``parameter``, one of ``model``'s own and in its own orientation, in place to fit ``batch``.

        Every item of ``batch`` needs a target. ``generator`` (CPU) orders the minibatches.
        """


def register(solver: type[Solver]) -> type[Solver]:
    """Class decorator: make a solver known under its name."""
    if solver.name in SOLVERS:
        raise InputError(f"two solvers are called {solver.name!r}: rename one")
    SOLVERS[solver.name] = solver
    return solver


def required(tensor: Tensor | None, what: str, solver: Solver) -> Tensor:
    """``tensor``, or InputError saying that ``solver`` needs it."""
    if tensor is None:
        raise InputError(f"{solver.name} needs the layer's {what}: put it in the LayerProblem")
    return tensor
