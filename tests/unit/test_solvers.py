"""Every closed-form solver against a dense brute-force minimiser of its own objective; FT on a toy model."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from sphere.editing.component import Layer
from sphere.editing.solvers.alphaedit import AlphaEdit
from sphere.editing.solvers.base import ClosedFormSolver, LayerProblem
from sphere.editing.solvers.ft import FineTuning
from sphere.editing.solvers.memit import Encore, Memit, MemitSequential
from sphere.editing.solvers.rome import Rome
from sphere.errors import InputError, NumericalError
from sphere.geometry.null_space import key_spectrum, null_space
from sphere.models.tokens import Encoded

D_OUT, D_IN = 7, 12


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moment(samples: int, seed: int) -> Tensor:
    """E[k k^T] of correlated keys with eigenvalues over four decades; singular if samples < D_IN."""
    keys = torch.logspace(-2, 0, D_IN, dtype=torch.float64)[:, None] * gaussian(D_IN, samples, seed=seed)
    mix = torch.linalg.qr(gaussian(D_IN, D_IN, seed=99)).Q
    return mix @ (keys @ keys.T / samples) @ mix.T


SECOND_MOMENT = moment(500, 3)
M = 30 * moment(4, 5)


def problem(n: int = 5, *, past: bool = True, kept: int | None = None) -> LayerProblem:
    """A problem for a solver that reads C, or, with ``kept``, for AlphaEdit with so many directions."""
    return LayerProblem(
        weight=gaussian(D_OUT, D_IN, seed=1),
        keys=gaussian(D_IN, n, seed=2),
        residuals=gaussian(D_OUT, n, seed=4),
        pretrained=gaussian(D_OUT, D_IN, seed=9),
        prepared=null_space(SECOND_MOMENT, fraction=kept / D_IN)[0] if kept else SECOND_MOMENT,
        memory={"past": M} if past else {},
    )


def root(matrix: Tensor) -> Tensor:
    """S with S S^T = matrix, for a positive semi-definite one."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt()


def brute_force(terms: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The X that minimises sum ||X A - B||^2 over the (A, B) given, by least squares on the stacked columns."""
    left = torch.cat([a for a, _ in terms], dim=1)
    right = torch.cat([b for _, b in terms], dim=1)
    return torch.linalg.lstsq(left.T, right.T, driver="gelsd").solution.T


def penalty(matrix: Tensor, weight: float = 1.0) -> tuple[Tensor, Tensor]:
    """The (A, B) whose ||X A - B||^2 is weight x tr(X matrix X^T)."""
    return math.sqrt(weight) * root(matrix), torch.zeros(D_OUT, matrix.shape[0], dtype=torch.float64)


def check(actual: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    assert actual.shape == expected.shape
    assert float((actual - expected).norm()) <= tolerance * float(expected.norm())


@pytest.mark.parametrize("n", [1, 5, 12, 40])
@pytest.mark.parametrize("past", [False, True])
class TestLeastSquares:
    def test_memit(self, n, past):
        p = problem(n, past=past)
        check(
            Memit(second_moment_weight=50).solve(p).update,
            brute_force([(p.keys, p.residuals), penalty(p.prepared, 50)]),
        )

    def test_memit_sequential(self, n, past):
        p = problem(n, past=past)
        terms = [(p.keys, p.residuals), penalty(p.prepared, 50)]
        terms += [penalty(M)] if past else []
        check(MemitSequential(second_moment_weight=50).solve(p).update, brute_force(terms))

    def test_encore(self, n, past):
        p = problem(n, past=past)
        terms = [(p.keys, p.residuals), penalty(p.prepared, 50), penalty(torch.eye(D_IN).double(), 20)]
        terms += [penalty(M)] if past else []
        check(Encore(second_moment_weight=50, ridge=20).solve(p).update, brute_force(terms))

    @pytest.mark.parametrize("kept", [3, 9, 11])
    def test_alphaedit(self, n, past, kept):
        """Among dW = X B^T: the Woodbury path (no past, n < kept) and the Cholesky path (all others)."""
        p = problem(n, past=past, kept=kept)
        b = p.prepared
        identity = torch.eye(kept, dtype=torch.float64)
        terms = [(b.T @ p.keys, p.residuals), penalty(identity, 10)]
        terms += [penalty(b.T @ M @ b)] if past else []
        update = AlphaEdit(ridge=10).solve(p).update
        check(update, brute_force(terms) @ b.T)

        projector = b @ b.T  # and the published, unsymmetric formula, solved densely
        spread = p.keys @ p.keys.T + (M if past else 0)
        system = projector @ spread + 10 * torch.eye(D_IN, dtype=torch.float64)
        check(update, torch.linalg.solve(system, projector @ p.keys @ p.residuals.T).T)

    def test_alphaedit_leaves_kept_out_keys_alone(self, n, past):
        p = problem(n, past=past, kept=8)
        outside = gaussian(D_IN, 20, seed=6)
        outside -= p.prepared @ (p.prepared.T @ outside)
        update = AlphaEdit().solve(p).update
        assert update.norm() > 0.1
        assert float((update @ outside).norm()) <= 1e-13 * float(update.norm() * outside.norm())


def test_alphaedit_s_two_forms_agree_beyond_the_brute_force():
    p = problem(4, past=False, kept=9)
    zero_past = replace(p, memory={"past": torch.zeros_like(M)})
    check(AlphaEdit(ridge=0.5).solve(p).update, AlphaEdit(ridge=0.5).solve(zero_past).update, 1e-12)


def test_an_empty_past_is_no_past():
    p = problem(past=False)
    empty = replace(p, memory={"past": torch.zeros_like(M)})
    assert torch.equal(MemitSequential().solve(p).update, Memit().solve(p).update)
    assert torch.equal(MemitSequential().solve(empty).update, Memit().solve(p).update)
    check(Encore(ridge=0).solve(p).update, Memit().solve(p).update, 1e-14)


def test_memit_sequential_edits_earlier_keys_less_than_memit():
    """What the past is for: ||dW K_past|| falls."""
    p = problem(3)
    keys_past = root(M)
    memit, sequential = (s(second_moment_weight=0.1).solve(p).update @ keys_past for s in (Memit, MemitSequential))
    assert float(sequential.norm()) < 0.5 * float(memit.norm())


@pytest.mark.parametrize("second_moment", ["identity", "data"])
def test_rome_gives_the_key_its_value_at_the_least_cost(second_moment):
    p = problem(1)
    metric = p.prepared if second_moment == "data" else torch.eye(D_IN, dtype=torch.float64)
    update = Rome(second_moment=second_moment).solve(p).update
    value = p.weight @ p.keys + p.residuals
    torch.testing.assert_close((p.weight + update) @ p.keys, value)
    assert torch.linalg.matrix_rank(update) == 1
    for seed in range(5):  # any other update that meets the constraint costs more, to first order nothing
        other = gaussian(D_OUT, D_IN, seed=10 + seed)
        other -= (other @ p.keys) @ p.keys.T / p.keys.square().sum()
        slope = 2 * (update @ metric * other).sum()
        assert abs(float(slope)) < 1e-9 * float(other.norm() * update.norm())


def test_rome_takes_one_key_and_not_a_zero_one():
    with pytest.raises(InputError, match="one request at a time, not 5"):
        Rome().solve(problem(5))
    p = problem(1)
    with pytest.raises(NumericalError, match="key is zero, or at right angles"):
        Rome().solve(replace(p, keys=0 * p.keys))


@pytest.mark.parametrize("solver", [Memit(), MemitSequential(), Rome(second_moment="data"), Encore(ridge=0)])
@pytest.mark.parametrize("samples", [1, 6, 10])
def test_a_singular_system_says_what_to_do(solver: ClosedFormSolver, samples):
    p = problem(1, past=False)
    singular = replace(p, prepared=moment(samples, 8))
    with pytest.raises(NumericalError, match=r"singular to working precision: .*more text"):
        solver.solve(singular)
    Encore(ridge=1).solve(singular)  # the advice works


def test_bad_scaling_alone_is_not_singular():
    """Key entries of very different sizes are what they are; only lost directions are an error."""
    p = problem(3, past=False)
    scales = torch.logspace(-9, 9, D_IN, dtype=torch.float64)
    scaled = replace(p, keys=scales[:, None] * p.keys, prepared=scales[:, None] * p.prepared * scales)
    check(Memit().solve(scaled).update * scales, Memit().solve(p).update, 1e-9)


def test_inputs_are_left_alone():
    for kept, solver in ((None, Memit()), (None, MemitSequential()), (None, Encore()), (8, AlphaEdit())):
        p = problem(5, kept=kept)
        given = {**vars(p), "past": M}
        copies = {name: value.clone() for name, value in given.items() if isinstance(value, Tensor)}
        solver.settle(p, solver.solve(p), torch.zeros_like(p.weight), p.keys)
        assert copies.keys() == {"weight", "keys", "residuals", "pretrained", "prepared", "past"}
        assert all(torch.equal(given[name], copy) for name, copy in copies.items())


@pytest.mark.parametrize("solver", [MemitSequential(), Encore(), AlphaEdit(nullspace_fraction=0.5)])
def test_the_past_is_the_sum_over_batches_of_the_keys_as_they_are_after_them(solver: ClosedFormSolver):
    p = problem(past=False, kept=6 if isinstance(solver, AlphaEdit) else None)
    after = [gaussian(D_IN, 3, seed=20), gaussian(D_IN, 5, seed=21)]
    for keys in after:
        memory = solver.settle(p, solver.solve(p), torch.zeros_like(p.weight), keys)
        p = replace(p, memory=memory)
    torch.testing.assert_close(p.memory["past"], sum(keys @ keys.T for keys in after))
    with pytest.raises(NumericalError, match="the key products after the batch hold"):
        solver.settle(p, solver.solve(p), torch.zeros_like(p.weight), 1e300 * after[0])


def test_memit_remembers_nothing():
    p = problem(past=False)
    assert Memit().settle(p, Memit().solve(p), torch.zeros_like(p.weight), None) == {}
    assert not Memit.needs_keys_after


def layer(second_moment: Tensor | None = SECOND_MOMENT) -> Layer:
    return Layer(gaussian(D_OUT, D_IN, seed=9), 3, second_moment)


def test_solvers_say_what_they_need_and_prepare_it():
    for solver in (Memit(), MemitSequential(), Encore(), Rome(second_moment="data")):
        assert solver.needs == ("second_moment",)
        assert torch.equal(solver.prepare(layer()), SECOND_MOMENT)
        with pytest.raises(InputError, match="layer 3 has no key second moment"):
            solver.prepare(layer(None))
    assert Rome().needs == ()
    assert Rome().prepare(layer(None)) is None
    assert AlphaEdit().needs == ("key_spectrum",)
    with pytest.raises(InputError, match="layer 3 has no key second moment"):
        AlphaEdit().prepare(layer(None))


def test_a_layer_takes_what_is_known_of_it():
    known = key_spectrum(torch.diag(torch.arange(1.0, D_IN + 1)).double())
    assert AlphaEdit(nullspace_fraction=0.5).prepare(replace(layer(), known_keys=known)).shape == (D_IN, 6)
    assert replace(layer(), known_keys=known).key_spectrum is known


@pytest.mark.parametrize("bad", [torch.eye(D_IN + 1), torch.ones(D_IN)])
def test_a_second_moment_fits_its_layer(bad):
    with pytest.raises(InputError, match="layer 3's second moment has shape"):
        _ = layer(bad).second_moment
    with pytest.raises(NumericalError, match="second_moment holds 1 NaN"):
        _ = layer(SECOND_MOMENT + torch.diag(torch.tensor([math.nan] + [0.0] * (D_IN - 1)))).second_moment


@pytest.mark.parametrize("field", ["weight", "keys", "residuals"])
def test_a_problem_checks_every_tensor(field):
    fields = vars(problem(5))
    for bad in (math.nan, math.inf):
        spoilt = fields[field].clone()
        spoilt[0, 0] = bad
        with pytest.raises(NumericalError, match=f"{field} holds 1 NaN or infinite"):
            LayerProblem(**{**fields, field: spoilt})
    with pytest.raises(InputError, match=rf"{field} is torch.float32"):
        LayerProblem(**{**fields, field: fields[field].float()})
    with pytest.raises(InputError, match="has shape"):
        LayerProblem(**{**fields, field: fields[field][:-1]})


def test_a_problem_checks_its_memory_and_the_pretrained_weight():
    with pytest.raises(NumericalError, match="past holds 1 NaN or infinite"):
        replace(problem(), memory={"past": torch.tensor([[math.nan]])})
    with pytest.raises(InputError, match="pretrained has shape"):
        replace(problem(), pretrained=torch.zeros(1, D_IN))


def test_a_problem_needs_a_key():
    with pytest.raises(InputError, match="keys has no column"):
        problem(0)


class TestNullSpace:
    def test_threshold_keeps_the_eigenvectors_below_it(self):
        second_moment = moment(500, 3)
        values = torch.linalg.eigvalsh(second_moment)
        threshold = float(values[6] + values[7]) / 2
        basis, eigenvalues = null_space(second_moment, threshold=threshold)
        torch.testing.assert_close(eigenvalues, values)
        assert basis.shape == (D_IN, 7)
        torch.testing.assert_close(basis.T @ basis, torch.eye(7, dtype=torch.float64))
        torch.testing.assert_close(basis.T @ second_moment @ basis, values[:7].diag(), atol=1e-14, rtol=1e-10)
        outside = torch.eye(D_IN, dtype=torch.float64) - basis @ basis.T
        assert float(torch.linalg.eigvalsh(outside @ second_moment @ outside)[-5]) > threshold

    @pytest.mark.parametrize(("fraction", "kept"), [(0.5, 6), (0.7, 8), (0.8, 10), (0.95, 11), (0.05, 1)])
    def test_fraction_keeps_that_share(self, fraction, kept):
        assert null_space(moment(500, 3), fraction=fraction)[0].shape == (D_IN, kept)

    @pytest.mark.parametrize(("threshold", "share"), [(1e-12, "0 %"), (1e6, "100 %")])
    @pytest.mark.parametrize("samples", [500, 9, 5])
    def test_keeping_none_or_all_names_the_threshold_for_70_percent(self, threshold, share, samples):
        second_moment = moment(samples, 3) + 1e-9 * torch.eye(D_IN).double()  # 500: all apart; 5: seven tie
        with pytest.raises(InputError, match=re.escape(f"({share})")) as caught:
            null_space(second_moment, threshold=threshold)
        message = str(caught.value)
        assert "\n" not in message
        advised = float(re.search(r"nullspace_threshold=(\S+)", message).group(1))
        assert null_space(second_moment, threshold=advised)[0].shape[1] == 8

    def test_ties_are_advised_the_fraction(self):
        for tied in (torch.eye(D_IN), moment(3, 3)):  # nine eigenvalues of the latter are rounding
            with pytest.raises(InputError, match=r"tie there, use nullspace_fraction=0\.7"):
                null_space(tied, threshold=1e9)
            assert null_space(tied, fraction=0.7)[0].shape == (D_IN, 8)

    def test_a_fraction_too_small_for_one_direction_is_an_error(self):
        with pytest.raises(InputError, match=r"fraction 0.01 keeps 0 of 12"):
            null_space(moment(500, 3), fraction=0.01)

    @pytest.mark.parametrize("settings", [{}, {"threshold": 0.1, "fraction": 0.5}])
    def test_wants_one_rule(self, settings):
        with pytest.raises(InputError, match="either a threshold or a fraction"):
            null_space(moment(500, 3), **settings)

    def test_refuses_what_is_no_second_moment(self):
        with pytest.raises(InputError, match="square"):
            null_space(gaussian(3, 4), threshold=1)
        with pytest.raises(InputError, match="not symmetric"):
            null_space(gaussian(4, 4), threshold=1)
        with pytest.raises(InputError, match="negative eigenvalue"):
            null_space(torch.diag(torch.tensor([1.0, -0.1])), threshold=0.5)
        with pytest.raises(NumericalError, match="second_moment holds"):
            null_space(torch.full((3, 3), math.nan), threshold=0.5)

    def test_a_solver_s_own_settings_decide(self):
        by_threshold = AlphaEdit(nullspace_threshold=0.01).prepare(layer())
        assert torch.equal(by_threshold, null_space(SECOND_MOMENT, threshold=0.01)[0])
        by_fraction = AlphaEdit(nullspace_fraction=0.5).prepare(layer())
        assert by_fraction.shape == (D_IN, 6)
        assert AlphaEdit().editable_share(by_fraction, {}) == 0.5
        assert math.isnan(Memit().editable_share(SECOND_MOMENT, {}))


VOCABULARY, WIDTH = 11, 6


class Toy(nn.Module):
    """A causal model: running mean of embeddings, one projection, one head. ``transposed`` stores it (in, out)."""

    def __init__(self, *, transposed: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, WIDTH, generator=generator))
        weight = torch.randn(WIDTH, WIDTH, generator=generator)
        self.projection = nn.Parameter(weight.T.contiguous() if transposed else weight)
        self.head = nn.Parameter(torch.randn(VOCABULARY, WIDTH, generator=generator))
        self.transposed = transposed

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> SimpleNamespace:
        hidden = self.embedding[input_ids] * attention_mask[..., None]
        hidden = hidden.cumsum(1) / attention_mask.cumsum(1)[..., None]
        weight = self.projection.T if self.transposed else self.projection
        return SimpleNamespace(logits=torch.tanh(hidden @ weight.T) @ self.head.T)


BATCH = [
    Encoded((1, 2, 3, 4), target_start=2),
    Encoded((5, 6, 7), target_start=2),
    Encoded((2, 5, 8, 9, 10), target_start=3),
]


def fit(settings: FineTuning, model: nn.Module, batch=BATCH, *, pad_id: int = 0, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    settings.fit(model, model.projection, batch, pad_id=pad_id, device="cpu", generator=generator)


def loss_by_hand(model: nn.Module, objective: str) -> Tensor:
    """Mean over requests of the mean over target tokens of the NLL, one unpadded text at a time."""
    losses = []
    for item in BATCH:
        ids = torch.tensor([item.ids])
        log_probabilities = model(ids, torch.ones_like(ids)).logits.log_softmax(-1)[0]
        places = range(item.target_start, len(item.ids))
        at = [(place if objective == "target" else item.target_start) - 1 for place in places]
        losses.append(-log_probabilities[at, [item.ids[place] for place in places]].mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("objective", ["target", "prompt_last"])
@pytest.mark.parametrize("transposed", [False, True])
class TestFineTuning:
    def test_first_step_follows_the_gradient_of_the_stated_loss(self, objective, transposed):
        """Adam's first step is lr x sign(gradient) for all but tiny gradients."""
        model = Toy(transposed=transposed)
        before = model.projection.detach().clone()
        (gradient,) = torch.autograd.grad(loss_by_hand(model, objective), [model.projection])
        fit(FineTuning(lr=1e-3, epochs=1, objective=objective), model)
        expected = before - 1e-3 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(model.projection.detach(), expected, atol=1e-6, rtol=0)

    def test_lowers_the_loss_by_this_weight_alone(self, objective, transposed):
        model = Toy(transposed=transposed)
        model.head.grad = torch.ones_like(model.head)
        model.embedding.requires_grad_(False)
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        start = loss_by_hand(model, objective).item()
        fit(FineTuning(lr=0.05, objective=objective), model)
        assert loss_by_hand(model, objective).item() < 0.5 * start
        assert torch.equal(model.head, before["head"])
        assert torch.equal(model.embedding, before["embedding"])
        assert torch.equal(model.head.grad, torch.ones_like(model.head))
        assert model.projection.grad is None
        assert [p.requires_grad for p in model.parameters()] == [False, True, True]


def test_the_two_objectives_differ_on_targets_of_several_tokens():
    one, other = Toy(), Toy()
    fit(FineTuning(lr=0.01, epochs=1), one)
    fit(FineTuning(lr=0.01, epochs=1, objective="prompt_last"), other)
    assert not torch.equal(one.projection, other.projection)


def test_padding_changes_nothing():
    one, other = Toy(), Toy()
    fit(FineTuning(lr=0.01, epochs=3), one, pad_id=0)
    fit(FineTuning(lr=0.01, epochs=3), other, pad_id=7)
    assert torch.equal(one.projection, other.projection)


def test_minibatches_are_ordered_by_the_generator():
    models = [Toy(), Toy(), Toy()]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        fit(FineTuning(lr=0.05, epochs=2, minibatch=1), model, seed=seed)
    assert torch.equal(models[0].projection, models[1].projection)
    assert not torch.equal(models[0].projection, models[2].projection)


def test_the_constraint_bounds_every_entry():
    free, bound = Toy(), Toy()
    before = bound.projection.detach().clone()
    fit(FineTuning(lr=0.05, stop_loss=0), free)
    fit(FineTuning(lr=0.05, stop_loss=0, norm_constraint=0.02), bound)
    assert (free.projection - before).abs().max() > 0.1
    assert (bound.projection - before).abs().max() <= 0.02 + 1e-6
    assert (bound.projection - before).abs().max() > 0.019


def test_stops_once_the_loss_is_low():
    stopped, once = Toy(), Toy()
    fit(FineTuning(lr=0.01, epochs=25, stop_loss=1e9), stopped)
    fit(FineTuning(lr=0.01, epochs=1), once)
    assert torch.equal(stopped.projection, once.projection)


def test_fine_tuning_names_bad_input():
    for item in (Encoded((1, 2)), Encoded((1, 2), target_start=0)):
        with pytest.raises(InputError, match="needs a prompt and a target"):
            fit(FineTuning(), Toy(), [item])
    with pytest.raises(InputError, match="empty batch"):
        fit(FineTuning(), Toy(), [])
    model = Toy()
    model.head.data[0, 0] = math.nan
    with pytest.raises(NumericalError, match="lower lr"):
        fit(FineTuning(), model)
    assert all(parameter.requires_grad for parameter in model.parameters())
