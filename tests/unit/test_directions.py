"""Principal directions against a dense eigendecomposition, and the algebra of the sparse projection."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere.errors import InputError, NumericalError
from sphere.geometry.directions import principal_directions, sparse_projection


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)


def dense(weight: torch.Tensor, eta: float) -> tuple[np.ndarray, np.ndarray]:
    """(projector on U, share of each of its directions) by the d_in x d_in Gram matrix."""
    rows = weight.double().numpy()
    rows = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-8)
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    shares = values[::-1] / values.sum()
    r = 1 + int((np.cumsum(shares) <= eta).sum())
    basis = vectors[:, ::-1][:, :r]
    return basis @ basis.T, shares[:r]


@pytest.mark.parametrize("shape", [(9, 20), (20, 9), (12, 12), (1, 6), (6, 1)])
@pytest.mark.parametrize("eta", [0.1, 0.5, 0.9])
def test_both_gram_matrices_give_the_paper_s_subspace(shape, eta):
    weight = gaussian(*shape) * torch.linspace(0.1, 4, shape[1])
    directions = principal_directions(weight, eta=eta)
    projector, shares = dense(weight, eta)
    assert directions.shape == (shape[1], len(shares))
    torch.testing.assert_close(directions @ directions.T, torch.from_numpy(projector), atol=1e-10, rtol=0)
    torch.testing.assert_close(
        directions.T @ directions, torch.eye(len(shares), dtype=torch.float64), atol=1e-12, rtol=0
    )
    rows = weight / (weight.norm(dim=1, keepdim=True) + 1e-8)
    carried = (rows @ directions).square().sum(0) / rows.square().sum()  # column by column, so the order too
    torch.testing.assert_close(carried, torch.from_numpy(shares.copy()), atol=1e-12, rtol=1e-9)


@given(seed=st.integers(0, 10**6), d_out=st.integers(1, 12), d_in=st.integers(1, 12), eta=st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None)
def test_r_is_the_first_count_whose_share_exceeds_eta(seed, d_out, d_in, eta):
    weight = gaussian(d_out, d_in, seed)
    directions = principal_directions(weight, eta=eta)
    rows = weight / (weight.norm(dim=1, keepdim=True) + 1e-8)
    cumulative = ((rows @ directions).square().sum(0) / rows.square().sum()).cumsum(0)
    assert cumulative[-1] > eta
    assert directions.shape[1] == 1 or cumulative[-2] <= eta + 1e-9


@pytest.mark.parametrize("columns", [8, 20])
def test_a_share_that_meets_eta_exactly_asks_for_one_more(columns):
    """Eight orthonormal rows: shares of 1/8 each, so eta = 1/2 gives 1 + 4, whatever the rounding."""
    for seed in range(5):
        weight = torch.linalg.qr(gaussian(columns, columns, seed)).Q[:8]
        assert principal_directions(weight, eta=0.5).shape == (columns, 5)


def test_ends_of_the_range():
    weight = gaussian(9, 3) @ gaussian(3, 14, 1)  # rank 3
    assert principal_directions(weight, eta=0).shape == (14, 0)
    assert principal_directions(weight, eta=1).shape == (14, 3)
    assert principal_directions(weight.T, eta=1).shape == (9, 3)
    whole = principal_directions(weight, eta=1)
    torch.testing.assert_close(weight @ whole @ whole.T, weight)


def test_depends_on_row_directions_alone_and_ignores_zero_rows():
    weight = gaussian(6, 10)
    same = torch.cat([weight * torch.logspace(-1, 3, 6)[:, None], torch.zeros(2, 10)])
    one, other = (principal_directions(each, eta=0.5) for each in (weight, same))
    torch.testing.assert_close(one @ one.T, other @ other.T, atol=1e-6, rtol=0)  # the norm floor is 1e-8


def test_half_precision_weights_are_taken_at_float64():
    weight = gaussian(6, 10).bfloat16()
    one, other = (principal_directions(each, eta=0.5) for each in (weight, weight.double()))
    assert one.dtype == torch.float64
    torch.testing.assert_close(one @ one.T, other @ other.T, atol=1e-12, rtol=0)


@given(seed=st.integers(0, 10**6), d_in=st.integers(2, 12), eta=st.floats(0.05, 0.95), alpha=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_projection_scales_one_part_and_keeps_the_other(seed, d_in, eta, alpha):
    directions = principal_directions(gaussian(8, d_in, seed), eta=eta)
    update = gaussian(5, d_in, seed + 1)
    projected = sparse_projection(update, directions, alpha=alpha)
    torch.testing.assert_close(projected @ directions, (1 - alpha) * (update @ directions), atol=1e-12, rtol=0)
    rest = torch.eye(d_in, dtype=torch.float64) - directions @ directions.T
    torch.testing.assert_close(projected @ rest, update @ rest, atol=1e-12, rtol=0)


def test_the_full_projection_is_idempotent():
    directions = principal_directions(gaussian(30, 50), eta=0.5)
    once = sparse_projection(gaussian(30, 50, 1), directions, alpha=1)
    torch.testing.assert_close(sparse_projection(once, directions, alpha=1), once, atol=1e-13, rtol=0)
    assert (once @ directions).abs().max() < 1e-13


def test_alpha_0_and_eta_0_change_nothing():
    weight, update = gaussian(6, 9), gaussian(6, 9, 1)
    for eta, alpha in ((0.5, 0.0), (0.0, 1.0)):
        same = sparse_projection(update, principal_directions(weight, eta=eta), alpha=alpha)
        assert torch.equal(same, update)
        assert same is not update  # a caller may change one without the other


def test_computes_in_float64_and_answers_in_the_update_s_dtype():
    directions = principal_directions(gaussian(6, 9), eta=0.5)
    update = gaussian(6, 9, 1).float()
    projected = sparse_projection(update, directions, alpha=0.5)
    assert projected.dtype == torch.float32
    assert torch.equal(projected, sparse_projection(update.double(), directions, alpha=0.5).float())


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_refuses_shares_and_strengths_outside_0_to_1(bad):
    weight = gaussian(4, 4)
    with pytest.raises(InputError, match="eta is"):
        principal_directions(weight, eta=bad)
    with pytest.raises(InputError, match="alpha is"):
        sparse_projection(weight, principal_directions(weight, eta=0.5), alpha=bad)


def test_names_bad_input():
    weight = gaussian(4, 6)
    with pytest.raises(InputError, match="weight is zero"):
        principal_directions(torch.zeros(3, 3), eta=0.5)
    with pytest.raises(InputError, match="do not fit"):
        sparse_projection(weight, gaussian(4, 2), alpha=0.5)
    weight[0, 0] = math.nan
    with pytest.raises(NumericalError, match="weight holds 1 NaN"):
        principal_directions(weight, eta=0.5)
    with pytest.raises(NumericalError, match="update holds 1 NaN"):
        sparse_projection(weight, gaussian(6, 2), alpha=0.5)
    with pytest.raises(NumericalError, match="directions holds"):
        sparse_projection(gaussian(4, 6), torch.full((6, 1), math.inf), alpha=0.5)
