"""Hyperspherical energy: how evenly a weight matrix's neurons (rows) spread over the unit sphere.

Source: SPHERE (arXiv 2510.01172), section 3 and Theorem 1; Liu et al., "Learning towards minimum
hyperspherical energy" (NeurIPS 2018).

Arithmetic. Rows are normalised in float64. Squared distances come from blocked Gram products, 2 - 2 cos, and
each pair is taken from the cheapest arithmetic that resolves it:

* float32 Gram, for a block of float32 or half-precision weights whose every pair is further apart than
  ``NEAR_FLOAT32``: a squared distance is then off by about 1e-8, at worst 1e-7, with random sign;
* float64 Gram, for every other block;
* the difference of the two rows, in float64, for a pair nearer than ``NEAR_FLOAT64``.

So the energy agrees with a direct double loop to 1e-10, relative, for float64 weights, and to 1e-8 for others (1e-12
where rows are nearly orthogonal, as in a language model), at about the cost of one Gram product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sphere.errors import InputError
from sphere.geometry.linalg import matrix64

BLOCK = 1024
"""Rows in a block: two of them make one Gram block of 8 MB in float64."""
NEAR_FLOAT32 = 0.1
"""Squared distance below which a float32 Gram entry is not trusted."""
NEAR_FLOAT64 = 1e-4
"""Squared distance below which a float64 Gram entry is not trusted."""
COINCIDENT = 16 * torch.finfo(torch.float64).eps
"""Distance at which two normalised rows differ by rounding alone."""
DIFFERENCES = 2**22
"""Entries of row differences held at once (32 MB)."""


@dataclass(frozen=True)
class Energy:
    """What one pass over the pairs of rows of a weight matrix gives."""

    sum: float
    """Sum over ordered pairs; infinite if two rows coincide in direction."""
    mean: float
    """``sum`` divided by the number of ordered pairs."""
    theorem_constant: float
    """K of Theorem 1 (s = 1), whatever the ``s`` of the sum."""
    rows: int
    """Rows with a direction; all others are counted in ``zero_rows``."""
    zero_rows: int
    """Rows that are exactly zero: they have no direction and are left out."""
    coincident_pairs: int
    """Unordered pairs of rows with the same direction to float64 precision."""


def measure_energy(weight: Tensor, *, s: float = 1.0) -> Energy:
    """HE_s, its mean and the constant of Theorem 1 of ``weight`` (d_out, d_in), in one pass over the pairs.

    HE_s = sum over ordered pairs i != j of ||w_i - w_j||^-s with w the normalised rows; s = 0 takes
    -log ||w_i - w_j||. Any floating dtype, on the weight's own device, float64 accumulation.

    Zero rows have no direction and are left out. Two rows of the same direction (to 16 rounding errors) have
    an infinite energy, and so has the matrix: the count tells that from an overflow.

    Raises InputError if s is negative or fewer than two rows are non-zero, NumericalError on NaN or infinity.
    """
    if not (math.isfinite(s) and s >= 0):
        raise InputError(f"s is {s}: give a finite number >= 0 (the paper uses 1)")
    unit = unit_rows(weight)
    rows = unit.shape[0]
    if rows < 2:
        raise InputError(f"weight has {rows} non-zero rows: the energy needs at least two")
    total = torch.zeros((), dtype=torch.float64, device=unit.device)
    coincident = torch.zeros((), dtype=torch.long, device=unit.device)
    cubes_of_row = torch.zeros(rows, dtype=torch.float64, device=unit.device)
    for at, to, squared in _squared_distances(unit, single=_may_use_float32(weight)):
        inverse = squared.rsqrt()  # 1 / distance
        terms = inverse.log() if s == 0 else inverse.pow(s)
        cubes = inverse.pow(3)
        if at == to:  # both orders of each pair are here, and the diagonal, which is no pair
            total += terms.fill_diagonal_(0).sum()
            coincident += (squared == 0).sum() // 2
            cubes_of_row[at] += cubes.fill_diagonal_(0).sum(dim=1)
        else:
            total += 2 * terms.sum()
            coincident += (squared == 0).sum()
            cubes_of_row[at] += cubes.sum(dim=1)
            cubes_of_row[to] += cubes.sum(dim=0)
    return Energy(
        sum=float(total),
        mean=float(total) / (rows * (rows - 1)),
        theorem_constant=4 * float(torch.linalg.vector_norm(cubes_of_row)),
        rows=rows,
        zero_rows=weight.shape[0] - rows,
        coincident_pairs=int(coincident),
    )


def hyperspherical_energy(weight: Tensor, *, s: float = 1.0, reduction: Literal["sum", "mean"] = "sum") -> float:
    """HE_s of ``weight`` (d_out, d_in), rows being neurons, summed or averaged over ordered pairs.

    n orthonormal rows give n (n - 1) / sqrt 2 at s = 1. ``measure_energy`` documents the definition and the errors.
    """
    if reduction not in ("sum", "mean"):
        raise InputError(f"reduction is {reduction!r}: give 'sum' or 'mean'")
    energy = measure_energy(weight, s=s)
    return energy.sum if reduction == "sum" else energy.mean


def theorem_constant(weight: Tensor) -> float:
    """Theorem 1's K = 4 (sum_k (sum_{j != k} ||w_k - w_j||^-3)^2)^(1/2), w the normalised rows of (d_out, d_in)."""
    return measure_energy(weight).theorem_constant


def theorem_bound(energy_change: float, constant: float) -> float:
    """Theorem 1's lower bound (dHE / K)^2 on the output perturbation ||dV||.

    To first order |dHE| <= K ||dW||_F for unit rows, since |dHE/dw_k| <= 2 sum_j d_kj^-2 and no distance
    exceeds 2; orthonormal inputs make ||dV|| = ||dW||_F. While |dHE| <= K (small dW) the paper's square is
    the weaker of the two bounds. Outside those assumptions it bounds nothing: report it, don't rely on it.
    Coincident rows make K infinite: the bound is then 0, or NaN if the energy changed from infinite to infinite.
    """
    return (energy_change / constant) ** 2


def perturbation(update: Tensor, keys: Tensor) -> float:
    """||dV||_F = ||dW K||_F, the change of the outputs; update (d_out, d_in), keys (d_in, n)."""
    change, inputs = matrix64(update, "update"), matrix64(keys, "keys")
    if change.shape[1] != inputs.shape[0]:
        raise InputError(f"update {tuple(update.shape)} cannot take keys {tuple(keys.shape)}: give (d_in, n)")
    return float(torch.linalg.matrix_norm(change @ inputs))


def unit_perturbation(before: Tensor, after: Tensor) -> float:
    """||W^' - W^||_F, W^ the rows scaled to length one (a zero row stays zero), of two weights (d_out, d_in).

    It is the ||dV|| of Theorem 1 in the theorem's own setting: unit rows, and inputs that are an orthonormal basis.
    """
    one, other = (torch.nn.functional.normalize(matrix64(each, "weight"), eps=1e-300) for each in (before, after))
    if one.shape != other.shape:
        raise InputError(f"weights {tuple(one.shape)} and {tuple(other.shape)} differ in shape: give one layer's")
    return float(torch.linalg.matrix_norm(other.sub_(one)))


def cosine_matrix(weight: Tensor) -> Tensor:
    """Cosines (n, n), float64, in [-1, 1], between the n non-zero rows of ``weight`` (d_out, d_in)."""
    unit = unit_rows(weight)
    return (unit @ unit.T).clamp_(-1, 1)


def unit_rows(weight: Tensor) -> Tensor:
    """The non-zero rows of ``weight`` (d_out, d_in) scaled to length one, float64."""
    rows = matrix64(weight, "weight")
    largest = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1)
    there = largest > 0
    if not there.all():
        rows, largest = rows[there], largest[there]
    rows = rows / largest[:, None]  # no overflow or underflow in the squares; in place from here on
    return rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True))


def _may_use_float32(weight: Tensor) -> bool:
    """Whether a float32 product is as good as the weight's own digits (and is not a TF32 one)."""
    return weight.dtype != torch.float64 and torch.get_float32_matmul_precision() == "highest"


def _squared_distances(unit: Tensor, *, single: bool) -> Iterator[tuple[slice, slice, Tensor]]:
    """(rows, columns, squared distances float64) of the blocks on and above the diagonal.

    A diagonal block holds every pair of its rows twice; its own diagonal is meaningless (1).
    """
    low = unit.float() if single else None
    starts = range(0, unit.shape[0], BLOCK)
    for i in starts:
        for j in range(i, unit.shape[0], BLOCK):
            at, to = slice(i, i + BLOCK), slice(j, j + BLOCK)
            squared = None
            if low is not None:
                squared = _from_gram(low[at] @ low[to].T, diagonal=at == to)
                if bool((squared < NEAR_FLOAT32).any()):
                    squared = None
            if squared is None:
                squared = _from_gram(unit[at] @ unit[to].T, diagonal=at == to)
                _resolve_near(squared, unit[at], unit[to])
            yield at, to, squared


def _from_gram(cosines: Tensor, *, diagonal: bool) -> Tensor:
    squared = 2 - 2 * cosines.double()
    return squared.fill_diagonal_(1) if diagonal else squared


def _resolve_near(squared: Tensor, left: Tensor, right: Tensor) -> None:
    """Replace, in place, what a float64 Gram cannot resolve by the squared length of the rows' difference."""
    pairs = (squared < NEAR_FLOAT64).nonzero()
    for chunk in torch.split(pairs, max(1, DIFFERENCES // left.shape[1])):
        i, j = chunk.unbind(dim=1)
        exact = (left[i] - right[j]).square().sum(dim=1)
        squared[i, j] = torch.where(exact <= COINCIDENT**2, 0.0, exact)
