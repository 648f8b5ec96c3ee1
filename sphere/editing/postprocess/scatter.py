"""scatter, a control: move the hyperspherical energy, and the function as little as possible."""

from __future__ import annotations

from math import inf, isfinite, sqrt
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sphere.editing.component import Layer, Need
from sphere.editing.postprocess.base import PostContext, PostProcess, pair64, register
from sphere.editing.solvers.past import PAST
from sphere.errors import NumericalError

if TYPE_CHECKING:
    from torch import Tensor

EXACT = 1e-3
"""Relative error of the energy's change at which the search ends."""
TRIES = 60
"""Steps of the search at most."""


@register
class Scatter(PostProcess):
    """Add a change that text and edited keys hardly see, until the energy has moved by ``share`` (a control, ours).

    Every neuron gets the same step, relative to its length, along one direction of the keys' space, dW' = dW + t l n^T
    with l (d_out,) the rows' lengths: that brings all of them nearer to each other, so HE rises with t. n (d_in,) is
    the weakest eigenvector of C + M + K K^T among C's ``tail``, M being the earlier batches' keys, of solvers that
    remember them. t is found so that |HE(W + dW') - HE(W)| = ``share`` HE(W); an update that moves HE by as much itself
    stays as it is.
    """

    name: ClassVar[str] = "scatter"

    share: float = Field(default=0.01, gt=0, le=1)
    """How far HE is moved by a batch, as a share of what it was before."""
    tail: float = Field(default=0.2, gt=0, lt=1)
    """Share of C's directions, weakest first, among which n is looked for."""

    @property
    def needs(self) -> tuple[Need, ...]:
        return ("key_spectrum",)

    def prepare(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """The tail's eigenvalues (k,) and eigenvectors (d_in, k)."""
        spectrum = layer.key_spectrum
        kept = max(1, round(self.tail * spectrum.values.numel()))
        place = layer.pretrained.device
        return spectrum.values[:kept].to(place), spectrum.vectors[:, :kept].to(place)

    def apply(self, update: Tensor, context: PostContext) -> Tensor:
        import torch

        from sphere.geometry.energy import hyperspherical_energy

        change, weight = pair64(update, context.weight)
        start = hyperspherical_energy(weight)
        if not isfinite(start):
            raise NumericalError("scatter cannot move an infinite energy: two rows of the weight coincide")
        lengths = weight.norm(dim=1)
        step = torch.outer(lengths, self._direction(weight, lengths, context))

        def moved(size: float) -> float:
            """|dHE| over what is wanted."""
            return abs(hyperspherical_energy(weight + change + size * step) - start) / (self.share * start)

        if moved(0.0) >= 1:
            return update.clone()
        low, high, size = 0.0, inf, sqrt(2 * self.share)
        for _ in range(TRIES):
            found = moved(size)
            if abs(found - 1) < EXACT:
                return (change + size * step).to(update.dtype)
            low, high = (size, high) if found < 1 else (low, size)
            size = min((low + high) / 2, 2 * low) if low else high / 2
        raise NumericalError(f"scatter cannot move the energy by {self.share:g} of itself: lower share")

    def _direction(self, weight: Tensor, lengths: Tensor, context: PostContext) -> Tensor:
        """n (d_in,), of the sign that the rows of ``weight`` lean to."""
        from sphere.geometry.linalg import symmetric_eigen

        values, tail = self.prepared(context)
        used = values.diag()
        if context.keys is not None:
            keys = tail.T @ context.keys
            used = used + keys @ keys.T
        if (past := context.memory.get(PAST)) is not None:
            used = used + tail.T @ past @ tail
        direction: Tensor = tail @ symmetric_eigen(used, "the keys' second moment")[1][:, 0]
        leaning = (weight @ direction / lengths.clamp_min(1e-300)).sum()
        return -direction if leaning < 0 else direction
