"""The linear-algebra steps that several modules share: checked float64 input, and solves by Cholesky."""

from __future__ import annotations

import torch
from torch import Tensor

from sphere.errors import InputError, NumericalError


def matrix64(matrix: Tensor, name: str) -> Tensor:
    """``matrix`` as float64 on its own device (the same tensor if it is float64 already).

    Raises InputError unless it has two non-empty dimensions, NumericalError if it holds NaN or infinity.
    """
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"{name} has shape {tuple(matrix.shape)}: give a matrix, neither side empty")
    require_finite(matrix, name)
    return matrix.detach().to(torch.float64)


def require_finite(tensor: Tensor, name: str) -> None:
    """Raises NumericalError, with the number of bad entries, if ``tensor`` holds NaN or infinity."""
    finite = torch.isfinite(tensor)
    if not finite.all():
        bad = finite.numel() - int(finite.sum())
        raise NumericalError(
            f"{name} holds {bad} NaN or infinite entries of {finite.numel()}: "
            "look at the step that made it (often a half-precision overflow or a diverged edit)"
        )


def symmetric_eigen(matrix: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n,), ascending, and orthonormal eigenvectors (n, n) of a symmetric float64 matrix."""
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # exported, but not to mypy
        raise NumericalError(f"the eigenvectors of {name} did not converge: look for huge entries") from error
    return values, vectors


def gram_eigen(matrix: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Squared singular values, descending, that differ from zero (r,) and their vectors on the shorter side.

    The vectors are left ones (d_out, r) if the float64 ``matrix`` (d_out, d_in) is wider than tall, else
    right ones (d_in, r): the smaller Gram matrix gives them, and ``across`` the other side's.
    """
    gram = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    values, vectors = symmetric_eigen(gram, f"the Gram matrix of {name}")
    values, vectors = values.flip(0), vectors.flip(1)
    rank = int((values > values[0] * max(matrix.shape) * torch.finfo(torch.float64).eps).sum())
    return values[:rank], vectors[:, :rank]


def across(matrix: Tensor, vectors: Tensor) -> Tensor:
    """The other side's singular vectors, up to sign, for leading ones of ``gram_eigen``.

    They are matrix^T u or matrix v normalised: by QR, which keeps order and span and is orthonormal to rounding.
    """
    image = matrix.T @ vectors if matrix.shape[0] < matrix.shape[1] else matrix @ vectors
    return torch.linalg.qr(image).Q


def solve_positive_definite(system: Tensor, right: Tensor, *, name: str, remedy: str) -> Tensor:
    """X with ``system @ X = right`` by Cholesky; system (n, n) symmetric float64, right (n, m).

    Raises NumericalError, naming ``name`` and quoting ``remedy``, if the system is singular to working
    precision: a pivot that is zero, negative, or no more than the rounding error of its diagonal entry.
    """
    factor, failed = torch.linalg.cholesky_ex(system)
    size = system.shape[0]
    tiny = 4 * size * torch.finfo(system.dtype).eps
    if failed or bool((factor.diagonal().square() <= tiny * system.diagonal()).any()):
        raise NumericalError(f"{name} ({size} x {size}) is singular to working precision: {remedy}")
    return torch.cholesky_solve(right, factor)
