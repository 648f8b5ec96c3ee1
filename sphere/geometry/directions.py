"""The principal hyperspherical directions of a weight matrix, and the sparse projection away from them.

Source: SPHERE (arXiv 2510.01172), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sphere.errors import InputError
from sphere.geometry.linalg import across, gram_eigen, matrix64, require_finite

ROW_NORM_FLOOR = 1e-8
"""Added to each row's norm before dividing by it (the paper's constant)."""
SHARE_ROUNDING = 1e-12
"""A cumulative share this little above eta counts as equal to it, so that rounding never decides r."""


@dataclass(frozen=True)
class PrincipalSpectrum:
    """All principal directions of a weight matrix, so that one decomposition serves every eta."""

    shares: Tensor
    """(rank,) cumulative, ascending to 1, float64."""
    directions: Tensor
    """(d_in, rank) orthonormal columns by descending share, float64."""

    def up_to(self, eta: float) -> Tensor:
        """The first r = 1 + #{j : share_1 + ... + share_j <= eta} directions (d_in, r); none at eta = 0."""
        if not 0 <= eta <= 1:
            raise InputError(f"eta is {eta}: give a share between 0 and 1 (the paper uses 0.5)")
        r = 0 if eta == 0 else 1 + int((self.shares <= eta + SHARE_ROUNDING).sum())
        return self.directions[:, :r].contiguous()


def principal_spectrum(weight: Tensor) -> PrincipalSpectrum:
    """Shares and directions of W^^T W^ / d_out, W^ the normalised rows of ``weight`` (d_out, d_in).

    The eigenvectors come from the smaller of the two Gram matrices, so 4096 x 14336 never needs a 14336 x 14336 one.
    Raises InputError if the weight is zero, NumericalError on NaN or infinity.
    """
    rows = matrix64(weight, "weight")
    d_out, d_in = rows.shape
    rows = rows / (torch.linalg.vector_norm(rows, dim=1, keepdim=True) + ROW_NORM_FLOOR)  # (d_out, d_in)
    values, vectors = gram_eigen(rows, "the weight")
    if values.numel() == 0:
        raise InputError("weight is zero: it has no principal directions, check which layer it is")
    shares = values.cumsum(0) / values.sum()  # dividing the Gram by d_out would change none of them
    return PrincipalSpectrum(shares, across(rows, vectors) if d_out < d_in else vectors.contiguous())


def principal_directions(weight: Tensor, *, eta: float) -> Tensor:
    """The directions (d_in, r) that carry a share eta of the neurons: orthonormal, by descending share, float64.

    With W^ the normalised rows of ``weight`` (d_out, d_in), the shares are the eigenvalues of W^^T W^ / d_out
    over their sum, descending, and r = 1 + #{j : share_1 + ... + share_j <= eta}, at most the rank of W^.
    eta = 0 switches the method off and gives (d_in, 0).

    Raises InputError if eta is outside [0, 1] or the weight is zero, NumericalError on NaN or infinity.
    """
    if eta == 0:
        return matrix64(weight, "weight").new_zeros((weight.shape[1], 0))
    return principal_spectrum(weight).up_to(eta)


def sparse_projection(update: Tensor, directions: Tensor, *, alpha: float) -> Tensor:
    """dW' = dW - alpha (dW U) U^T for an update (d_out, d_in) and orthonormal directions U (d_in, r).

    alpha = 1 removes the directions from every row, alpha = 0 (or r = 0) changes nothing. Computed in float64
    and returned in the update's own dtype and device; U stays a factor, no d_in x d_in projector is formed.

    Raises InputError if alpha is outside [0, 1] or the shapes don't fit, NumericalError on NaN or infinity.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}: give a strength between 0 and 1 (the paper uses 0.5 to 0.8)")
    change = matrix64(update, "update")
    if directions.ndim != 2 or directions.shape[0] != change.shape[1]:
        raise InputError(
            f"directions {tuple(directions.shape)} do not fit the update {tuple(change.shape)}: "
            "give the directions (d_in, r) of the same layer's weight"
        )
    if alpha == 0 or directions.shape[1] == 0:
        return update.clone()
    require_finite(directions, "directions")
    basis = directions.to(change)
    return (change - alpha * (change @ basis) @ basis.T).to(update.dtype)
