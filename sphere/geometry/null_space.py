"""The part of the key space that text hardly uses, where AlphaEdit writes."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from torch import Tensor

from sphere.errors import InputError
from sphere.geometry.linalg import matrix64, symmetric_eigen

ADVISED_SHARE = 0.7
"""Share of directions that the advice in an error message would keep."""
ASYMMETRY = 1e-6
"""Relative asymmetry, or negative eigenvalue, above which a matrix is not a second moment."""
EPSILON = sys.float_info.epsilon
"""Relative rounding error of float64."""


@dataclass(frozen=True)
class KeySpectrum:
    """The eigenvectors of a key second moment, so that one decomposition serves every threshold."""

    values: Tensor
    """(d_in,) ascending, float64."""
    vectors: Tensor
    """(d_in, d_in) orthonormal columns in the same order, float64."""

    def weakest(self, *, threshold: float | None = None, fraction: float | None = None) -> Tensor:
        """The basis (d_in, k) that ``null_space`` describes."""
        size = self.values.numel()
        if threshold is not None and fraction is None:
            kept, given = int((self.values < threshold).sum()), f"threshold {threshold:g}"
        elif fraction is not None and threshold is None:
            kept, given = round(fraction * size), f"fraction {fraction:g}"
        else:
            raise InputError("give null_space either a threshold or a fraction, not both or neither")
        if not 0 < kept < size:
            share = "0 %" if kept == 0 else "100 %"
            raise InputError(f"null-space {given} keeps {kept} of {size} directions ({share}): {_advice(self.values)}")
        return self.vectors[:, :kept].contiguous()


def key_spectrum(second_moment: Tensor) -> KeySpectrum:
    """Eigenvalues and eigenvectors of C = E[k k^T] (d_in, d_in), on its device.

    Raises InputError if C is no second moment, NumericalError on NaN or infinity.
    """
    matrix = matrix64(second_moment, "second_moment")
    size = matrix.shape[0]
    if matrix.shape != (size, size):
        raise InputError(f"second_moment has shape {tuple(matrix.shape)}: give a square matrix (d_in, d_in)")
    scale = float(matrix.abs().max())
    if float((matrix - matrix.T).abs().max()) > ASYMMETRY * scale:
        raise InputError("second_moment is not symmetric: give E[k k^T]")
    values, vectors = symmetric_eigen((matrix + matrix.T) / 2, "second_moment")
    if float(values[0]) < -ASYMMETRY * scale:
        raise InputError(f"second_moment has the negative eigenvalue {float(values[0]):.3g}: give E[k k^T]")
    return KeySpectrum(values, vectors)


def null_space(
    second_moment: Tensor, *, threshold: float | None = None, fraction: float | None = None
) -> tuple[Tensor, Tensor]:
    """The weakest directions of C = E[k k^T] (d_in, d_in): (basis (d_in, k), all eigenvalues (d_in,) ascending).

    Give either ``threshold`` (keep eigenvalues below it; AlphaEdit, arXiv 2410.02355) or ``fraction`` (keep that
    share of the directions, weakest first). The columns are orthonormal, float64, on C's device; k / d_in is the
    share kept. P = basis basis^T is the projector, which nobody needs to form.

    Raises InputError if C is no second moment, or if no or every direction would be kept: the message then names
    the threshold that keeps 70 %. NumericalError on NaN or infinity.
    """
    spectrum = key_spectrum(second_moment)
    return spectrum.weakest(threshold=threshold, fraction=fraction), spectrum.values


def _advice(values: Tensor) -> str:
    """What keeps 70 % of the directions with these ascending eigenvalues."""
    size = values.numel()
    wanted = min(max(round(ADVISED_SHARE * size), 1), size - 1)
    if wanted < 1:
        return "a single direction cannot be split, use a method without a null space"
    below, above = float(values[wanted - 1]), float(values[wanted])
    if above - below <= size * EPSILON * float(values[-1]):  # apart by rounding at most
        return f"its eigenvalues tie there, use nullspace_fraction={ADVISED_SHARE}"
    middle = (max(below, 0.0) * above) ** 0.5 or above / 2  # between them, evenly on a logarithmic scale
    texts = (f"{middle:.{digits}g}" for digits in range(1, 18))
    shortest = next((text for text in texts if below < float(text) <= above), repr(above))
    return f"nullspace_threshold={shortest} keeps {wanted / size:.0%}"
