"""What solvers and post-processes have in common, and the layer that they prepare themselves from."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from sphere.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from sphere.geometry.directions import PrincipalSpectrum
    from sphere.geometry.null_space import KeySpectrum

Need = Literal["second_moment", "key_spectrum", "principal_spectrum", "output_moment"]
"""What a solver or post-process can ask a layer for: each is made once, when it is first read."""

Search = Mapping[str, tuple[Any, ...]]
"""Setting -> the values that a search tries."""


@dataclass(frozen=True)
class Layer:
    """The layer's pretrained weight, and what is known of it beside.

    The batch loop makes one for each edited layer, hands it to ``prepare`` of the solver and of every post-process, and
    drops it; what they return is kept for the whole stream.
    """

    pretrained: Tensor
    """(d_out, d_in) the weight before any edit, on the device that edits are solved on."""
    number: int = 0
    """Which layer of the model it is."""
    text_moment: Tensor | None = None
    """(d_in, d_in) C = E[k k^T] over text, wherever it lies; None if there are no statistics."""
    known_keys: KeySpectrum | None = None
    """Its decomposition, where that was computed before."""
    known_principal: PrincipalSpectrum | None = None
    """The decomposition of the pretrained weight's normalised rows, likewise."""
    text_gradients: Tensor | None = None
    """(d_out, d_out) S = E[g g^T], g the gradient of the text's loss at the layer's output, where it was taken."""

    @cached_property
    def second_moment(self) -> Tensor:
        """C (d_in, d_in), float64 on the weight's device; InputError without statistics or on a wrong shape."""
        if self.text_moment is None:
            raise InputError(f"layer {self.number} has no key second moment: give statistics of it")
        return self._square(self.text_moment, self.pretrained.shape[1], "second moment")

    @cached_property
    def output_moment(self) -> Tensor:
        """S (d_out, d_out), float64 on the weight's device; InputError without it or on a wrong shape."""
        if self.text_gradients is None:
            raise InputError(f"layer {self.number} has no output moment: take its statistics with gradients")
        return self._square(self.text_gradients, self.pretrained.shape[0], "output moment")

    def _square(self, moment: Tensor, size: int, what: str) -> Tensor:
        from sphere.geometry.linalg import matrix64

        if tuple(moment.shape) != (size, size):
            raise InputError(
                f"layer {self.number}'s {what} has shape {tuple(moment.shape)}: this weight needs {(size, size)}"
            )
        return matrix64(moment.to(self.pretrained.device), what.replace(" ", "_"))

    @property
    def covered_moment(self) -> Tensor:
        """``second_moment``, for systems that have nothing else in them; InputError if an entry is zero in all text."""
        moment = self.second_moment
        dead = (moment.diagonal() == 0).nonzero().flatten().tolist()
        if dead:
            more = f" (and {len(dead) - 1} more)" if len(dead) > 1 else ""
            raise InputError(
                f"entry {dead[0]}{more} of layer {self.number}'s keys is zero in all of the text, a dead neuron: more "
                "text may not help; use a method with a ridge (encore, alphaedit), or edit other layers"
            )
        return moment

    @cached_property
    def key_spectrum(self) -> KeySpectrum:
        """Eigenvalues and eigenvectors of C."""
        from sphere.geometry.null_space import key_spectrum

        return self.known_keys if self.known_keys is not None else key_spectrum(self.second_moment)

    @cached_property
    def principal_spectrum(self) -> PrincipalSpectrum:
        """Principal hyperspherical directions of the pretrained weight, with their shares."""
        from sphere.geometry.directions import principal_spectrum

        return self.known_principal if self.known_principal is not None else principal_spectrum(self.pretrained)


class Component(BaseModel, ABC):
    """The settings of a part of a method, and its computation. Fields are its hyperparameters.

    A component keeps nothing itself: what it takes from the unedited model it returns from ``prepare``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    """What a method row calls it; of a post-process, the part of a method's name after a ``+`` too."""
    search: ClassVar[Search] = {}
    """What ``sphere tune`` tries of its settings on a model that nobody has settings for."""
    alternatives: ClassVar[tuple[str, ...]] = ()
    """Settings of which one is given: what a name or a model's file gives replaces whichever was given before it."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What ``prepare`` reads of a layer, under these settings: the workflow makes it beforehand."""
        return ()

    @property
    def remark(self) -> str:
        """What a user should know of a default that was taken because no setting was given; one line, or none."""
        return ""

    def prepare(self, layer: Layer) -> Any:
        """What this component is to be handed with every batch of the layer; called once, on the unedited weight.

        Raises InputError if the settings leave nothing to work with.
        """
