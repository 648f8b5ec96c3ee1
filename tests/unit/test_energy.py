"""Hyperspherical energy against closed forms and a double loop in extended precision; Theorem 1 where it holds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere.errors import InputError, NumericalError
from sphere.geometry import energy as module
from sphere.geometry.energy import (
    cosine_matrix,
    hyperspherical_energy,
    measure_energy,
    perturbation,
    theorem_bound,
    theorem_constant,
)


def double_loop(weight: torch.Tensor, power: float) -> float:
    """Sum over ordered pairs of non-zero rows of distance^-power (power 0: -log), in extended precision."""
    rows = weight.double().numpy().astype(np.longdouble)
    rows = rows[np.abs(rows).max(axis=1) > 0]
    unit = rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))
    total = np.longdouble(0)
    for i in range(len(unit)):
        for j in range(len(unit)):
            if i != j:
                distance = np.sqrt(((unit[i] - unit[j]) ** 2).sum())
                total += -np.log(distance) if power == 0 else distance**-power
    return float(total)


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)


def rotation(size: int, seed: int = 1) -> torch.Tensor:
    return torch.linalg.qr(gaussian(size, size, seed)).Q


def with_near_duplicates(*distances: float) -> torch.Tensor:
    """25 x 12: random rows, three zero rows, and rescaled copies of early rows, this far in direction."""
    weight = gaussian(22 - len(distances), 12)
    copies = []
    for i, distance in enumerate(distances):
        aside = gaussian(1, 12, seed=9 + i)[0]
        aside -= (aside @ weight[i]) * weight[i] / weight[i].square().sum()
        copies.append(3.7 * (weight[i] / weight[i].norm() + distance * aside / aside.norm()))
    return torch.cat([weight, torch.zeros(3, 12, dtype=torch.float64), *(row[None] for row in copies)])


@pytest.mark.parametrize("n", [2, 5, 64])
def test_orthonormal_rows_have_the_closed_form(n):
    weight = rotation(64)[:n]
    expected = n * (n - 1) / math.sqrt(2)
    assert hyperspherical_energy(weight) == pytest.approx(expected, rel=1e-12)
    assert hyperspherical_energy(weight, reduction="mean") == pytest.approx(1 / math.sqrt(2), rel=1e-12)
    assert hyperspherical_energy(weight, s=2) == pytest.approx(n * (n - 1) / 2, rel=1e-12)
    assert hyperspherical_energy(weight, s=0) == pytest.approx(-n * (n - 1) * math.log(2) / 2, rel=1e-12)
    each = (n - 1) * 2**-1.5
    assert theorem_constant(weight) == pytest.approx(4 * math.sqrt(n) * each, rel=1e-12)


@pytest.mark.parametrize("s", [0.0, 1.0, 2.0, 0.5])
@pytest.mark.parametrize("block", [4, 7, 1024])
def test_agrees_with_the_double_loop(s, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr(module, "DIFFERENCES", 30)  # two pairs of rows at a time
    for weight in (gaussian(23, 5), gaussian(9, 40) + 8.0, with_near_duplicates(0.3, 1e-2, 1e-3, 1e-4, 1e-5)):
        assert hyperspherical_energy(weight, s=s) == pytest.approx(double_loop(weight, s), rel=1e-10)


def test_pairs_at_the_limit_of_float64_keep_their_leading_digits():
    weight = with_near_duplicates(1e-9, 1e-11)
    assert hyperspherical_energy(weight) == pytest.approx(double_loop(weight, 1), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_weights_cost_no_accuracy(dtype, monkeypatch):
    """Stored digits are what they are; the energy of those digits is right to 1e-7."""
    monkeypatch.setattr(module, "BLOCK", 16)
    far, close = gaussian(60, 48), 0.3 * gaussian(60, 48) + 1.0
    for weight in (far, close, torch.cat([far, with_near_duplicates(0.02, 0.01).repeat(1, 4)])):
        stored = weight.to(dtype)
        expected = hyperspherical_energy(stored.double())
        assert hyperspherical_energy(stored) == pytest.approx(expected, rel=1e-7)


def test_reduced_matmul_precision_does_not_reach_the_energy():
    """A process that allows TF32 or bfloat16 products gets the float64 path."""
    weight = gaussian(40, 64).float()
    expected = hyperspherical_energy(weight.double())
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert hyperspherical_energy(weight) == expected
    finally:
        torch.set_float32_matmul_precision(before)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 12), d=st.integers(2, 9), s=st.sampled_from([0.0, 1.0, 2.0]))
@settings(max_examples=40, deadline=None)
def test_depends_on_directions_alone(seed, n, d, s):
    weight = gaussian(n, d, seed)
    expected = hyperspherical_energy(weight, s=s)
    scales = torch.logspace(-3, 3, n, dtype=torch.float64)[:, None]
    for same in (weight @ rotation(d, seed + 1), scales * weight, weight.flip(0), -weight):
        assert hyperspherical_energy(same, s=s) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_extreme_scales_neither_overflow_nor_vanish():
    weight = gaussian(6, 4)
    expected = hyperspherical_energy(weight)
    scales = torch.tensor([1e-300, 1e-200, 1.0, 1e30, 1e200, 1e300], dtype=torch.float64)[:, None]
    assert hyperspherical_energy(scales * weight) == pytest.approx(expected, rel=1e-12)


def test_zero_rows_have_no_direction_and_are_left_out():
    weight = gaussian(7, 4)
    padded = torch.cat([torch.zeros(2, 4, dtype=torch.float64), weight])
    energy = measure_energy(padded)
    assert (energy.rows, energy.zero_rows) == (7, 2)
    assert energy.sum == pytest.approx(measure_energy(weight).sum, rel=1e-14)
    assert energy.mean == pytest.approx(energy.sum / 42, rel=1e-14)


@pytest.mark.parametrize("s", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-5])
@pytest.mark.parametrize("block", [3, 1024])
def test_rows_of_one_direction_have_infinite_energy(s, scale, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    weight = gaussian(8, 30)
    energy = measure_energy(torch.cat([weight, scale * weight[:2]]), s=s)
    assert energy.coincident_pairs == 2
    assert energy.sum == energy.mean == energy.theorem_constant == math.inf
    assert measure_energy(torch.cat([weight, -weight[:2]]), s=s).coincident_pairs == 0  # opposite is far


@pytest.mark.parametrize("s", [-1.0, math.nan, math.inf])
def test_refuses_a_senseless_exponent(s):
    with pytest.raises(InputError, match="finite number >= 0"):
        hyperspherical_energy(gaussian(3, 3), s=s)


def test_refuses_what_has_no_energy():
    with pytest.raises(InputError, match="1 non-zero rows"):
        hyperspherical_energy(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        hyperspherical_energy(torch.ones(3))
    with pytest.raises(InputError, match="'sum' or 'mean'"):
        hyperspherical_energy(gaussian(3, 3), reduction="max")
    for bad in (math.nan, math.inf):
        weight = gaussian(3, 3)
        weight[1, 1] = bad
        with pytest.raises(NumericalError, match="1 NaN or infinite"):
            hyperspherical_energy(weight)


def test_theorem_constant_is_the_formula(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    weight = with_near_duplicates(0.3, 1e-3)
    unit = torch.nn.functional.normalize(weight[weight.abs().amax(1) > 0], dim=1)
    distance = (unit[:, None] - unit[None]).norm(dim=2).fill_diagonal_(math.inf)
    expected = 4 * distance.pow(-3).sum(dim=1).square().sum().sqrt()
    assert theorem_constant(weight) == pytest.approx(float(expected), rel=1e-10)
    assert measure_energy(weight, s=2).theorem_constant == theorem_constant(weight)


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(gaussian(n, d, seed), dim=1)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 15), d=st.integers(3, 8))
@settings(max_examples=40, deadline=None)
def test_theorem_1_holds_under_its_assumptions(seed, n, d):
    """Unit rows, orthonormal inputs, small updates: ||dV|| >= |dHE| / K, and so >= its square."""
    weight = unit(n, d, seed)
    keys = rotation(d, seed + 1)
    update = gaussian(n, d, seed + 2)
    closest = math.sqrt(2 - 2 * float(cosine_matrix(weight).fill_diagonal_(-1).max()))
    update *= 1e-4 * closest / update.norm()
    change = hyperspherical_energy(weight + update) - hyperspherical_energy(weight)
    constant = theorem_constant(weight)
    moved = perturbation(update, keys)
    assert moved == pytest.approx(float(update.norm()), rel=1e-12)
    assert abs(change) / constant <= moved * (1 + 1e-2)
    assert theorem_bound(change, constant) <= moved


def test_the_constant_bounds_the_steepest_change_and_is_attained():
    """K against the gradient norm of the energy: never below it; equal to it for two opposite neurons."""
    opposite = torch.tensor([[0.6, 0.8], [-0.6, -0.8]], dtype=torch.float64)
    for weight in (unit(30, 10, 3), unit(12, 3, 4), opposite):
        weight.requires_grad_()
        pairs = ~torch.eye(len(weight), dtype=torch.bool)
        squared = (weight[:, None] - weight[None]).square().sum(2)[pairs]
        (gradient,) = torch.autograd.grad(squared.rsqrt().sum(), [weight])
        assert float(gradient.norm()) <= theorem_constant(weight) * (1 + 1e-12)
    assert float(gradient.norm()) == pytest.approx(theorem_constant(opposite), rel=1e-12)


def test_perturbation_refuses_keys_of_another_width():
    with pytest.raises(InputError, match="cannot take keys"):
        perturbation(gaussian(3, 4), gaussian(5, 2))


def test_cosine_matrix():
    weight = torch.tensor([[2.0, 0.0], [0.0, 0.0], [3.0, 3.0], [-1.0, 0.0]])
    half = math.sqrt(0.5)
    expected = torch.tensor([[1, half, -1], [half, 1, -half], [-1, -half, 1]], dtype=torch.float64)
    torch.testing.assert_close(cosine_matrix(weight), expected)
