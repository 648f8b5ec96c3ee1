"""Post-processes: the rule each states, checked against a dense computation."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sphere.editing.methods  # noqa: F401  (registers every post-process)
from sphere.editing.component import Layer
from sphere.editing.postprocess.base import POSTPROCESSES, PostContext
from sphere.editing.postprocess.crisp import Crisp
from sphere.editing.postprocess.prune import Prune
from sphere.editing.postprocess.rect import Rect
from sphere.editing.postprocess.revive import Revive
from sphere.editing.postprocess.scatter import Scatter
from sphere.editing.postprocess.sphere import Sphere
from sphere.errors import InputError, NumericalError
from sphere.geometry.directions import principal_directions, sparse_projection
from sphere.geometry.energy import hyperspherical_energy
from sphere.geometry.linalg import symmetric_eigen

SHAPES = [(7, 12), (12, 7), (9, 9)]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def context(shape: tuple[int, int] = (7, 12)) -> PostContext:
    return PostContext(weight=gaussian(*shape, seed=1), pretrained=gaussian(*shape, seed=2))


TEXT = ("crisp", "scatter")
"""Those that need statistics of text."""


@pytest.mark.parametrize("postprocess", [kind for name, kind in POSTPROCESSES.items() if name not in TEXT])
class TestEvery:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_keeps_shape_dtype_and_its_inputs(self, postprocess, shape):
        around = context(shape)
        for dtype in (torch.float32, torch.float64):
            update = 10 * gaussian(*shape, seed=3).to(dtype)
            copy = update.clone()
            result = postprocess().apply(update, around)
            assert (result.shape, result.dtype) == (update.shape, dtype)
            assert torch.equal(update, copy)
            assert not torch.equal(result, update)  # the defaults do something
            assert result.norm() < update.norm()  # and all of them only take away

    def test_the_result_is_never_the_update_itself(self, postprocess):
        update = 1e-6 * gaussian(7, 12, seed=3)
        assert postprocess().apply(update, context()).data_ptr() != update.data_ptr()

    def test_names_nan_and_wrong_shapes(self, postprocess):
        update = gaussian(7, 12, seed=3)
        with pytest.raises(InputError, match=r"fit|differ in shape"):
            postprocess().apply(gaussian(7, 11), context())
        update[2, 3] = math.nan
        with pytest.raises(NumericalError, match="update holds 1 NaN"):
            postprocess().apply(update, context())


class TestSphere:
    def test_takes_cached_directions_or_finds_the_pretrained_ones(self):
        around, update = context(), gaussian(7, 12, seed=3)
        directions = principal_directions(around.pretrained, eta=0.5)
        expected = sparse_projection(update, directions, alpha=0.8)
        cached = PostContext(around.weight, around.pretrained, directions)
        assert torch.equal(Sphere().apply(update, around), expected)
        assert torch.equal(Sphere().apply(update, cached), expected)

    def test_current_directions_come_from_the_weight_as_it_stands(self):
        around, update = context(), gaussian(7, 12, seed=3)
        cached = PostContext(around.weight, around.pretrained, principal_directions(around.pretrained, eta=0.5))
        expected = sparse_projection(update, principal_directions(around.weight, eta=0.5), alpha=0.8)
        assert torch.equal(Sphere(directions="current").apply(update, cached), expected)

    @pytest.mark.parametrize("off", [{"eta": 0}, {"alpha": 0}])
    def test_off_is_the_identity(self, off):
        update = gaussian(7, 12, seed=3)
        assert torch.equal(Sphere(**off).apply(update, context()), update)
        with pytest.raises(NumericalError, match="update holds"):
            Sphere(**off).apply(update * math.nan, context())


class TestRect:
    @given(
        seed=st.integers(0, 10**6),
        rows=st.integers(1, 8),
        columns=st.integers(1, 8),
        share=st.floats(0.001, 1),
        levels=st.integers(1, 4),
    )
    @settings(max_examples=80, deadline=None)
    def test_keeps_exactly_the_stated_share_and_the_largest(self, seed, rows, columns, share, levels):
        """Updates of a few distinct sizes, so that ties at the cut are the rule."""
        generator = torch.Generator().manual_seed(seed)
        update = torch.randint(1, levels + 1, (rows, columns), generator=generator).double()
        weight = torch.ones(rows, columns, dtype=torch.float64)
        result = Rect(keep_fraction=share).apply(update, PostContext(weight, weight))
        kept = result != 0
        assert int(kept.sum()) == round(share * rows * columns)
        assert torch.equal(result[kept], update[kept])
        if kept.any() and not kept.all():
            cut = update[kept].min()
            assert update[~kept].max() <= cut
            tied = (update == cut).flatten()
            states = kept.flatten()[tied]  # of the tied, the first in row-major order are kept
            assert torch.equal(states, states.sort(descending=True, stable=True).values)

    def test_size_is_relative_to_the_weight(self):
        weight = torch.tensor([[100.0, 1.0, -0.01, 10.0]], dtype=torch.float64)
        update = torch.tensor([[50.0, -0.9, 0.02, 9.5]], dtype=torch.float64)
        result = Rect(keep_fraction=0.5).apply(update, PostContext(weight, torch.zeros_like(weight)))
        assert result.tolist() == [[0, 0, 0.02, 9.5]]

    def test_a_vanishing_denominator_is_the_largest_change_unless_nothing_changes(self):
        weight = torch.tensor([[-1e-8, -1e-8, 1.0, 1.0]], dtype=torch.float64)
        update = torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
        assert Rect(keep_fraction=0.5).apply(update, PostContext(weight, weight)).tolist() == [[0, 1, 0, 3]]

    def test_zeros_are_positive_zeros(self):
        weight = torch.ones(2, 2, dtype=torch.float64)
        result = Rect(keep_fraction=0.25).apply(-weight, PostContext(weight, weight))
        assert torch.signbit(result).sum() == 1


class TestPrune:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("size", [0.5, 5.0, 1e5])
    def test_singular_values_obey_the_rule_and_vectors_stay(self, shape, size):
        around, update = context(shape), size * gaussian(*shape, seed=3)
        largest = torch.linalg.svdvals(around.pretrained)[0]
        left, values, right = torch.linalg.svd(update, full_matrices=False)
        assert size == 0.5 or values[0] > largest
        expected = torch.where(values > largest, values.log() - largest.log() + largest, values)
        result = Prune().apply(update, around)
        # in the update's own singular bases the result is diagonal, with the values of the rule
        torch.testing.assert_close(left.T @ result @ right.T, expected.diag(), atol=1e-10 * size, rtol=1e-9)

    @pytest.mark.parametrize(
        ("raised", "expected"),
        [(torch.linalg.LinAlgError, NumericalError), (torch.OutOfMemoryError, torch.OutOfMemoryError)],
    )
    def test_no_convergence_and_no_memory_are_told_apart(self, monkeypatch, raised, expected):
        def fail(*_, **__):
            raise raised("svd, eigh")

        monkeypatch.setattr(torch.linalg, "svd", fail)
        monkeypatch.setattr(torch.linalg, "eigh", fail)
        with pytest.raises(expected):
            Prune().apply(gaussian(7, 12), context())
        with pytest.raises(expected):
            symmetric_eigen(gaussian(7, 7), "a matrix")

    def test_small_updates_stay_as_they_are(self):
        update = 1e-3 * gaussian(7, 12, seed=3)
        assert torch.equal(Prune().apply(update, context()), update)

    def test_is_for_evaluation_only(self):
        assert Prune().stage == "evaluated"
        assert {p().stage for name, p in POSTPROCESSES.items() if name != "prune"} == {"update"}

    def test_a_zero_weight_has_nothing_to_compare_with(self):
        zero = torch.zeros(2, 3, dtype=torch.float64)
        with pytest.raises(InputError, match="pretrained weight is zero"):
            Prune().apply(gaussian(2, 3), PostContext(zero, zero))


class TestRevive:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
    def test_keeps_the_tail_in_both_spaces(self, shape, share):
        around, update = context(shape), gaussian(*shape, seed=3)
        left, values, right = torch.linalg.svd(around.pretrained)
        cumulative = values.square().cumsum(0) / values.square().sum()
        r = next(i + 1 for i, part in enumerate(cumulative) if part >= share - 1e-12)
        u, v = left[:, r:], right[r:].T
        result = Revive(protected_share=share).apply(update, around)
        torch.testing.assert_close(result, u @ (u.T @ update @ v) @ v.T, atol=1e-12, rtol=0)
        assert (left[:, :r].T @ result).abs().max() < 1e-12
        assert (result @ right[:r].T).abs().max() < 1e-12
        torch.testing.assert_close(Revive(protected_share=share).apply(result, around), result, atol=1e-12, rtol=0)

    def test_leaves_an_update_of_the_tail_alone(self):
        around = context()
        left, _, right = torch.linalg.svd(around.pretrained)
        update = left[:, -1:] @ right[-1:]
        torch.testing.assert_close(Revive().apply(update, around), update, atol=1e-12, rtol=0)

    def test_protecting_nothing_is_the_identity(self):
        update = gaussian(7, 12, seed=3)
        assert torch.equal(Revive(protected_share=0).apply(update, context()), update)

    def test_a_zero_weight_has_nothing_to_protect(self):
        zero = torch.zeros(2, 3, dtype=torch.float64)
        with pytest.raises(InputError, match="pretrained weight is zero"):
            Revive().apply(gaussian(2, 3), PostContext(zero, zero))


def decaying(size: int, seed: int) -> Tensor:
    """A second moment with eigenvalues over eight decades."""
    mix = torch.linalg.qr(gaussian(size, size, seed=seed)).Q
    return (mix * torch.logspace(-8, 0, size, dtype=torch.float64)) @ mix.T


def text_layer(shape: tuple[int, int]) -> Layer:
    around = context(shape)
    return Layer(around.pretrained, 5, decaying(shape[1], 6), text_gradients=decaying(shape[0], 7))


class TestCrisp:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("gamma", [0.3, 0.9, 0.9999])
    def test_zeroes_the_fewest_coefficients_that_make_up_the_share(self, shape, gamma):
        """Against the dense curvature matrix, S kron C, and its eigenvectors one by one."""
        layer, process = text_layer(shape), Crisp(gamma=gamma)
        update = gaussian(*shape, seed=3)
        result = process.apply(update, replace(context(shape), prepared=process.prepare(layer)))
        curvature = torch.kron(layer.output_moment, layer.second_moment)
        values, vectors = torch.linalg.eigh(curvature)
        values, vectors = values.flip(0), vectors.flip(1)
        zeroed = 1 + int((values.cumsum(0) < gamma * values.sum()).sum())
        kept = vectors[:, zeroed:]
        torch.testing.assert_close(result.flatten(), kept @ (kept.T @ update.flatten()), atol=1e-6, rtol=0)
        loss = lambda change: float(change.flatten() @ curvature @ change.flatten())  # noqa: E731
        assert loss(result) < loss(update)
        again = process.apply(result, replace(context(shape), prepared=process.prepare(layer)))
        torch.testing.assert_close(again, result)

    def test_a_singular_or_missing_moment_says_what_to_do(self):
        few = gaussian(7, 3)
        singular = replace(text_layer((7, 12)), text_gradients=few @ few.T)
        with pytest.raises(InputError, match=r"layer 5's output moment S .* is singular: .* more text") as caught:
            Crisp().prepare(singular)
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match="layer 5 has no output moment: take its statistics with gradients"):
            Crisp().prepare(replace(singular, text_gradients=None))
        with pytest.raises(InputError, match=r"layer 5's output moment has shape \(12, 12\)"):
            Crisp().prepare(replace(singular, text_gradients=decaying(12, 7)))


class TestScatter:
    SHAPE = (24, 40)

    def around(self, process: Scatter, keys: Tensor | None = None, memory: dict[str, Tensor] | None = None):
        layer = text_layer(self.SHAPE)
        return replace(context(self.SHAPE), prepared=process.prepare(layer), keys=keys, memory=memory or {}), layer

    @pytest.mark.parametrize("share", [0.002, 0.01, 0.1])
    def test_moves_the_energy_and_hardly_the_outputs(self, share):
        """Held-out text and the keys of all edits see less of what it adds than of the method's own update."""
        process, keys, past = Scatter(share=share), gaussian(40, 3, seed=8), gaussian(40, 4, seed=9)
        around, layer = self.around(process, keys, {"past": past @ past.T})
        update = 0.02 * gaussian(*self.SHAPE, seed=3)
        result = process.apply(update, around)
        before, after = (hyperspherical_energy(w) for w in (around.weight, around.weight + result))
        assert abs(after - before) == pytest.approx(share * before, rel=0.01)
        values, vectors = torch.linalg.eigh(layer.second_moment)
        text = vectors @ (values.clamp_min(0).sqrt()[:, None] * gaussian(40, 300, seed=10))
        added = result - update
        assert torch.linalg.matrix_rank(added) == 1
        assert float((added @ text).norm()) < 0.5 * float((update @ text).norm())
        for edited in (keys, past):
            assert float((added @ edited).norm()) < 1e-2 * float(added.norm() * edited.norm())

    def test_goes_on_from_what_it_has_moved(self):
        process = Scatter(share=0.05)
        around, _ = self.around(process)
        weight, energies = around.weight, [hyperspherical_energy(around.weight)]
        for _ in range(4):
            weight = weight + process.apply(0 * weight, replace(around, weight=weight))
            energies.append(hyperspherical_energy(weight))
        for before, after in pairwise(energies):
            assert after / before == pytest.approx(1.05, rel=1e-3)

    def test_an_update_that_moves_as_much_itself_stays(self):
        process = Scatter(share=1e-4)
        around, _ = self.around(process)
        update = 0.5 * gaussian(*self.SHAPE, seed=3)
        assert torch.equal(process.apply(update, around), update)

    def test_coincident_rows_have_no_energy_to_move(self):
        process = Scatter()
        around, _ = self.around(process)
        twins = around.weight.clone()
        twins[1] = 2 * twins[0]
        with pytest.raises(NumericalError, match="infinite energy: two rows"):
            process.apply(0 * twins, replace(around, weight=twins))
