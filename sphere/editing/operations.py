"""Floating-point operations, counted as they run: products of matrices, attention, and factorizations.

What costs as many operations as it has entries (norms, activations, Adam) is left out: it is small beside them. A
product of (m, k) and (k, n) is 2 m k n; factorizations are as in Golub and Van Loan, Matrix Computations, 4th edition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def product(left: Tensor, right: Tensor, *_: Any, **__: Any) -> float:
    """Of (..., m, k) and (..., k, n)."""
    return 2.0 * left.numel() * right.shape[-1]


def with_vector(left: Tensor, *_: Any, **__: Any) -> float:
    """Of a matrix, or a vector, and a vector."""
    return 2.0 * left.numel()


def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> float:
    """Of (..., heads, n, d), (..., m, d) and (..., m, e): the scores, and the mean of the values."""
    return 2.0 * query.numel() * key.shape[-2] * (1 + value.shape[-1] / query.shape[-1])


def attention_back(_grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> float:
    """Five products for the two of the way forward."""
    return 2.5 * attention(query, key, value)


def cholesky(matrix: Tensor, *_: Any, **__: Any) -> float:
    return matrix.numel() * matrix.shape[-1] / 3


def cholesky_solve(right: Tensor, factor: Tensor, *_: Any, **__: Any) -> float:
    """Two triangular systems."""
    return 2.0 * right.numel() * factor.shape[-1]


def solve(matrix: Tensor, right: Tensor, *_: Any, **__: Any) -> float:
    """LU, and two triangular systems."""
    return 2 / 3 * matrix.numel() * matrix.shape[-1] + 2.0 * right.numel() * matrix.shape[-1]


def eigh(matrix: Tensor, *_: Any, **__: Any) -> float:
    """Values and vectors of a symmetric matrix."""
    return 9.0 * matrix.numel() * matrix.shape[-1]


def svd(matrix: Tensor, full_matrices: bool = False, *_: Any, **__: Any) -> float:
    m, n = max(matrix.shape[-2:]), min(matrix.shape[-2:])
    several = matrix.numel() / (m * n)
    return several * (4 * m**2 * n + 22 * n**3 if full_matrices else 6 * m * n**2 + 20 * n**3)


def qr(matrix: Tensor, *_: Any, **__: Any) -> float:
    """Householder's, and Q."""
    m, n = max(matrix.shape[-2:]), min(matrix.shape[-2:])
    return matrix.numel() / (m * n) * (4 * m * n**2 - 4 / 3 * n**3)


def matrix_exp(matrix: Tensor, *_: Any, **__: Any) -> float:
    """Five products of a Taylor polynomial of degree 18; squarings, which few need, are left out."""
    return 10.0 * matrix.numel() * matrix.shape[-1]


COUNTS: dict[Any, Callable[..., float]] = {
    aten.mm: product,
    aten.bmm: product,
    aten.addmm: lambda _, left, right, *__, **___: product(left, right),
    aten.baddbmm: lambda _, left, right, *__, **___: product(left, right),
    aten.mv: with_vector,
    aten.dot: with_vector,
    aten.addmv: lambda _, left, *__, **___: with_vector(left),
    aten._scaled_dot_product_flash_attention: attention,
    aten._scaled_dot_product_flash_attention_for_cpu: attention,
    aten._scaled_dot_product_efficient_attention: attention,
    aten._scaled_dot_product_cudnn_attention: attention,
    aten._scaled_dot_product_flash_attention_backward: attention_back,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_back,
    aten._scaled_dot_product_efficient_attention_backward: attention_back,
    aten._scaled_dot_product_cudnn_attention_backward: attention_back,
    aten.linalg_cholesky_ex: cholesky,
    aten.cholesky_solve: cholesky_solve,
    aten._linalg_solve_ex: solve,
    aten._linalg_eigh: eigh,
    aten._linalg_svd: svd,
    aten.linalg_qr: qr,
    aten.linalg_matrix_exp: matrix_exp,
}
"""Operation of PyTorch -> how many floating-point operations it is, by its arguments."""


class Operations(TorchDispatchMode):
    """Counts what runs while it is entered, backward passes too.

    PyTorch then finds singular vectors and eigenvectors even where only values are asked (``svdvals``, ``eigvalsh``),
    which may change those values' last digits; everything else keeps its bits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        counted = COUNTS.get(func.overloadpacket)
        if counted is not None:
            self.count += counted(*args, **kwargs)
        return func(*args, **kwargs)
