"""The solvers of 2025 and 2026 against their own objectives, compensation, and the editor of constant energy."""

import math
from dataclasses import replace

import pytest
import torch
from test_solvers import D_IN, D_OUT, SECOND_MOMENT, M, brute_force, check, gaussian, layer, moment, penalty, problem
from torch import Tensor, nn

from sphere.editing.component import Layer
from sphere.editing.solvers.alphaedit import BASIS, AlphaEdit
from sphere.editing.solvers.base import ClosedFormSolver, LayerProblem, Solution
from sphere.editing.solvers.betaedit import EDITS, BetaEdit
from sphere.editing.solvers.evoedit import EvoEdit
from sphere.editing.solvers.locft import LocalFineTuning
from sphere.editing.solvers.lyaplock import ALLOWED, QUEUE, LyapLock
from sphere.editing.solvers.memit import Encore, MemitSequential
from sphere.editing.solvers.past import LEFT, PAST
from sphere.editing.solvers.rotate import Rotate
from sphere.errors import NumericalError
from sphere.geometry.energy import hyperspherical_energy
from sphere.geometry.null_space import null_space
from sphere.models.tokens import Encoded

IDENTITY = torch.eye(D_IN, dtype=torch.float64)


def basis(kept: int) -> Tensor:
    return null_space(SECOND_MOMENT, fraction=kept / D_IN)[0]


def applied(solver: ClosedFormSolver, p: LayerProblem, change: Tensor | None = None) -> tuple[Solution, LayerProblem]:
    """One batch: its solution, and the problem that the next one starts from; ``change`` is what became of dW."""
    solution = solver.solve(p)
    change = solution.update if change is None else change
    memory = solver.settle(p, solution, change, p.keys)
    return solution, replace(p, weight=p.weight + change, memory=memory)


# ------------------------------------------------------------------------------------------------------- evoedit


@pytest.mark.parametrize("n", [1, 3, 12])
def test_evoedit_is_least_squares_in_what_is_left_of_the_null_space(n):
    p = problem(n, past=False, kept=9)
    for kept in (basis(9), basis(4)):
        given = replace(p, memory={BASIS: kept})
        expected = brute_force([(kept.T @ p.keys, p.residuals), penalty(torch.eye(kept.shape[1]).double(), 4)])
        check(EvoEdit().solve(given).update, expected @ kept.T)
        projector = kept @ kept.T  # and the published formula, solved densely
        inner = p.keys.T @ projector @ p.keys + 4 * torch.eye(n).double()
        check(EvoEdit().solve(given).update, p.residuals @ torch.linalg.solve(inner, p.keys.T @ projector))


def test_evoedit_s_later_updates_leave_earlier_keys_alone_until_the_null_space_is_used_up():
    solver, p = EvoEdit(nullspace_fraction=0.75, tolerance=1e-9), problem(4, past=False, kept=9)
    seen, shares = [p.keys], []
    for seed in (11, 12):
        _, after = applied(solver, p)
        shares.append(solver.editable_share(after.prepared, after.memory))
        p = replace(after, keys=gaussian(D_IN, 4, seed=seed))
        update = solver.solve(p).update
        assert float((update @ torch.cat(seen, dim=1)).abs().max()) < 1e-12
        assert update.norm() > 0.01
        seen.append(p.keys)
    assert shares == [5 / 12, 1 / 12]
    _, p = applied(solver, p)
    assert p.memory[BASIS].shape == (D_IN, 0)
    with pytest.raises(NumericalError, match=r"evoedit's null space is used up .*: raise nullspace_threshold"):
        solver.solve(p)


def test_evoedit_keeps_directions_that_the_keys_hardly_use():
    p = problem(2, past=False, kept=9)
    near = replace(p, keys=p.keys[:, :1] + torch.cat([0 * p.keys[:, :1], 1e-3 * p.keys[:, 1:]], dim=1))
    assert EvoEdit(tolerance=0.1).solve(near).memory[BASIS].shape == (D_IN, 8)
    assert EvoEdit(tolerance=1e-6).solve(near).memory[BASIS].shape == (D_IN, 7)


# ------------------------------------------------------------------------------------------------------ betaedit


@pytest.mark.parametrize("past", [False, True])
def test_betaedit_is_alphaedit_that_weighs_text_too(past):
    p, kept = problem(5, past=past), basis(9)
    given = replace(p, prepared=(SECOND_MOMENT, kept))
    spread = p.keys @ p.keys.T + (M if past else 0) + 30 * SECOND_MOMENT
    terms = [(kept.T @ p.keys, p.residuals), penalty(kept.T @ (spread - p.keys @ p.keys.T) @ kept)]
    terms.append(penalty(torch.eye(9).double(), 10))
    update = BetaEdit(second_moment_weight=30, ridge=10).solve(given).update
    check(update, brute_force(terms) @ kept.T)
    projector = kept @ kept.T
    dense = torch.linalg.solve(projector @ spread + 10 * IDENTITY, projector @ p.keys @ p.residuals.T).T
    check(update, dense)


def test_betaedit_finds_its_null_space_anew_every_so_many_edits():
    solver = BetaEdit(second_moment_weight=0.5, nullspace_fraction=0.75, rebuild_every=7)
    p = replace(problem(5, past=False), prepared=solver.prepare(layer()))
    torch.testing.assert_close(p.prepared[1], basis(9))
    _, p = applied(solver, p)
    assert BASIS not in p.memory
    _, p = applied(solver, p)
    assert float(p.memory[EDITS]) == 10
    both = (p.memory[PAST] / 10 + 0.5 * SECOND_MOMENT) / 1.5
    expected = null_space(both, fraction=0.75)[0]
    torch.testing.assert_close(p.memory[BASIS] @ p.memory[BASIS].T, expected @ expected.T, atol=1e-9, rtol=0)
    kept = p.memory[BASIS]
    _, p = applied(solver, p)
    _, p = applied(solver, p)
    assert not torch.equal(p.memory[BASIS], kept), "at 14"
    kept = p.memory[BASIS]
    _, p = applied(replace_setting(solver, rebuild_every=1000), p)
    assert torch.equal(p.memory[BASIS], kept)


def test_a_null_space_that_edits_have_filled_ends_betaedit_s_stream():
    solver = BetaEdit(second_moment_weight=1e-3, nullspace_threshold=0.02, rebuild_every=5)
    p = replace(problem(5, past=False), prepared=solver.prepare(layer()))
    p = replace(p, keys=100 * gaussian(D_IN, 40, seed=2), residuals=gaussian(D_OUT, 40, seed=3))
    with pytest.raises(NumericalError, match=r"betaedit finds no null space of text and edits together: .* keeps 0 of"):
        applied(solver, p)


def replace_setting(solver, **settings):
    return type(solver)(**{**solver.model_dump(), **settings})


# ------------------------------------------------------------------------------------------------------ lyaplock


@pytest.mark.parametrize("queue", [None, 4.0])
def test_lyaplock_pulls_back_to_the_pretrained_weight(queue):
    p = problem(5)
    memory = {"past": M} | ({} if queue is None else {QUEUE: torch.tensor(queue).double()})
    solver = LyapLock(second_moment_weight=50, editing_weight=2, queue_gain=3, queue_least=0.5)
    away, weight = p.weight - p.pretrained, 3 * (queue or 0.5) * 50
    root_c = penalty(SECOND_MOMENT, weight)[0]
    terms = [(math.sqrt(2) * p.keys, math.sqrt(2) * p.residuals), penalty(M, 2), (root_c, -away @ root_c)]
    check(solver.solve(replace(p, memory=memory)).update, brute_force(terms))


def test_lyaplock_s_queue_takes_up_what_exceeds_the_first_loss():
    solver = LyapLock(second_moment_weight=1, queue_gain=2, queue_drift=0.25, queue_least=1)
    p = replace(problem(5, past=False), weight=problem().pretrained)

    def loss(of: LayerProblem) -> float:
        away = of.weight - of.pretrained
        return float(torch.trace(away @ SECOND_MOMENT @ away.T))

    _, p = applied(solver, p)
    first = loss(p)
    assert float(p.memory[ALLOWED]) == pytest.approx(first)
    assert float(p.memory[QUEUE]) == pytest.approx(1.25), "max(1 + 2 (1 - 1) + b, 1)"
    p = replace(p, residuals=5 * p.residuals)
    _, p = applied(solver, p)
    assert float(p.memory[QUEUE]) == pytest.approx(1.25 + 2 * (loss(p) / first - 1) + 0.25)
    _, p = applied(solver, p, change=p.pretrained - p.weight)
    assert float(p.memory[QUEUE]) >= 1
    with pytest.raises(NumericalError, match=r"queue ran away .*raise allowance \(now 1\), or lower queue_gain"):
        applied(solver, p, change=1e5 * p.weight)


# ---------------------------------------------------------------------------------------------- RLSEdit's identity


@pytest.mark.parametrize("ridge", [0.0, 20.0])
def test_rlsedit_is_memit_seq_or_encore(ridge):
    """Its recursion on the inverse (arXiv 2601.15686), by Woodbury's formula, gives the same updates."""
    solver = Encore(second_moment_weight=50, ridge=ridge) if ridge else MemitSequential(second_moment_weight=50)
    p = problem(5, past=False)
    inverse = torch.linalg.inv(50 * SECOND_MOMENT + ridge * IDENTITY)
    for seed in (2, 21, 22):
        p = replace(p, keys=gaussian(D_IN, 5, seed=seed), residuals=gaussian(D_OUT, 5, seed=seed + 50))
        read = inverse @ p.keys  # (d_in, n)
        inverse = inverse - read @ torch.linalg.solve(torch.eye(5).double() + p.keys.T @ read, read.T)
        solution, after = applied(solver, p)
        check(solution.update, p.residuals @ p.keys.T @ inverse)
        p = after


# ------------------------------------------------------------------------------------------------ what is handed back

COMPENSATED = [
    (MemitSequential(second_moment_weight=50, compensate=True), None),
    (Encore(second_moment_weight=50, ridge=20, compensate=True), None),
    (AlphaEdit(ridge=10, compensate=True), 9),
    (BetaEdit(second_moment_weight=50, ridge=10, rebuild_every=10**6, compensate=True), 9),
]


def given_to(solver: ClosedFormSolver, kept: int | None) -> LayerProblem:
    p = problem(4, past=False, kept=kept)
    return replace(p, prepared=(SECOND_MOMENT, p.prepared)) if isinstance(solver, BetaEdit) else p


def batches(solver, kept, becomes, count=4):
    """Residuals and keys of a stream whose fourth batch is left as solved; the weight's change over all of it."""
    p = given_to(solver, kept)
    start, terms, left = p.weight, [], []
    for seed in range(count):
        keys, values = gaussian(D_IN, 4, seed=60 + seed), gaussian(D_OUT, 4, seed=70 + seed)
        p = replace(p, keys=keys, residuals=values - p.weight @ keys)
        update = solver.solve(p).update
        _, p = applied(solver, p, becomes(seed, update))
        terms.append((keys, values - start @ keys))
        left.append(LEFT in p.memory)
    return p.weight - start, terms, left


@pytest.mark.parametrize(("solver", "kept"), COMPENSATED, ids=lambda each: getattr(each, "name", ""))
def test_compensation_without_a_post_process_changes_nothing(solver, kept):
    plain = replace_setting(solver, compensate=False)
    one, _, left = batches(solver, kept, lambda _, update: update)
    other, _, _ = batches(plain, kept, lambda _, update: update)
    assert torch.equal(one, other)
    assert not any(left)


@pytest.mark.parametrize(("solver", "kept"), COMPENSATED, ids=lambda each: getattr(each, "name", ""))
def test_a_batch_left_alone_makes_good_what_those_before_it_lost(solver, kept):
    """Its gradient on the objective of all batches together is zero: the weight is the one-time solution."""
    mangled = lambda seed, update: update if seed == 3 else update * (update > 0)  # noqa: E731
    change, terms, left = batches(solver, kept, mangled)
    assert left == [True, True, True, False]
    settings = solver.model_dump()
    if (weight := settings.get("second_moment_weight")) is not None:
        terms.append(penalty(SECOND_MOMENT, weight))
    if ridge := settings.get("ridge"):
        terms.append(penalty(IDENTITY, ridge))
    gradient = sum((change @ a - b) @ a.T for a, b in terms)
    inside = gradient if kept is None else gradient @ basis(kept)
    scale = float(sum((b @ a.T).norm() for a, b in terms))
    assert float(inside.norm()) < 1e-9 * scale
    if kept is None:
        check(change, brute_force(terms))
    lost, *_ = batches(replace_setting(solver, compensate=False), kept, mangled)
    gradient = sum((lost @ a - b) @ a.T for a, b in terms)
    assert float((gradient if kept is None else gradient @ basis(kept)).norm()) > 1e-3 * scale


@pytest.mark.parametrize(
    "solver",
    [*(each for each, _ in COMPENSATED), EvoEdit(), LyapLock(), Rotate(second_moment_weight=50),
     BetaEdit(rebuild_every=4)],
    ids=lambda each: each.name,
)  # fmt: skip
def test_what_is_remembered_is_what_was_said(solver):
    """The plan counts files and memory by it; after fewer edits than rebuilds ask for, less is there."""
    settings = {"nullspace_fraction": 0.5} if "nullspace_fraction" in type(solver).model_fields else {}
    solver = replace_setting(solver, **settings)
    kept = solver.prepare(layer())
    _, p = applied(solver, replace(problem(4, past=False), prepared=kept), change=problem().weight)
    said = solver.remembers(D_OUT, D_IN, 4)
    assert p.memory.keys() == said.keys()
    assert all(p.memory[name].numel() <= numbers for name, numbers in said.items())


# -------------------------------------------------------------------------------------------------------- rotate


def wide(n: int = 3) -> LayerProblem:
    """A weight whose rows are independent, with edits that ask for a third of its outputs' size."""
    weight = gaussian(D_OUT, D_IN, seed=1)
    keys = gaussian(D_IN, n, seed=2)
    return LayerProblem(weight, keys, weight @ keys.roll(1, 0) / 3, weight, None, SECOND_MOMENT)


def objective(p: LayerProblem, update: Tensor, solver: Rotate) -> float:
    kept = solver.second_moment_weight * SECOND_MOMENT + p.memory.get(PAST, 0 * SECOND_MOMENT)
    return float((update @ p.keys - p.residuals).square().sum() + (update @ kept * update).sum())


def test_rotate_s_energy_stays_over_a_whole_stream_while_it_edits():
    solver, p = Rotate(second_moment_weight=0.05), wide()
    start = hyperspherical_energy(p.weight)
    for seed in range(12):
        p = replace(p, keys=gaussian(D_IN, 3, seed=30 + seed))
        p = replace(p, residuals=p.weight @ p.keys.roll(1, 0) / 3)
        update = solver.solve(p).update
        assert objective(p, update, solver) < 0.9 * objective(p, 0 * update, solver)
        torch.testing.assert_close((p.weight + update) @ (p.weight + update).T, p.weight @ p.weight.T)
        _, p = applied(solver, p)
        assert abs(hyperspherical_energy(p.weight) / start - 1) < 1e-12


@pytest.mark.parametrize("past", [False, True])
def test_rotate_is_a_stationary_point_among_rotations_of_its_plane(past):
    solver = Rotate(second_moment_weight=0.05, steps=1000)
    p = replace(wide(), memory={PAST: M} if past else {})
    update = solver.solve(p).update
    turned, best = p.weight + update, objective(p, update, solver)
    kept = solver._plane(p, 0.05 * SECOND_MOMENT + (M if past else 0))
    for seed in range(10):
        skew = gaussian(kept.shape[1], kept.shape[1], seed=40 + seed)
        small = kept @ (skew - skew.T) @ kept.T
        values = [objective(p, turned @ torch.matrix_exp(t * small) - p.weight, solver) for t in (1e-4, -1e-4)]
        assert abs(values[0] - values[1]) / 2e-4 < 1e-3 * best


def test_rotate_names_rows_that_depend_on_each_other_and_a_singular_moment():
    p = wide()
    twins = p.weight.clone()
    twins[1] = twins[0]
    with pytest.raises(NumericalError, match="rows of the weight depend on each other, edit another layer"):
        Rotate(second_moment_weight=1).solve(replace(p, weight=twins))
    with pytest.raises(NumericalError, match=r"rotate's system .* more text"):
        Rotate().solve(replace(p, prepared=moment(3, 8)))


# --------------------------------------------------------------------------------------------------------- locft


class Toy(nn.Module):
    """Next-token logits from the last token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(9, 9))

    def forward(self, input_ids: Tensor, **_: object) -> object:
        return type("Output", (), {"logits": self.weight[input_ids]})


def test_locft_trains_all_edits_so_far_together():
    edits = [Encoded((1, 2), None, 1), Encoded((3, 4, 0), None, 1), Encoded((5, 6), None, 1)]
    shared = {"pad_id": 0, "device": "cpu"}

    def fit(batch, memory, model):
        generator = torch.Generator().manual_seed(0)
        return LocalFineTuning(lr=0.1, epochs=3).fit(
            model, model.weight, batch, memory=memory, generator=generator, **shared
        )

    whole, parts = Toy(), Toy()
    remembered = fit(edits, {}, whole)
    memory = fit(edits[:1], {}, parts)
    with torch.no_grad():
        parts.weight.zero_()  # as the batch loop does
    memory = fit(edits[1:], memory, parts)
    assert torch.equal(whole.weight, parts.weight)
    assert memory.keys() == remembered.keys() == LocalFineTuning().remembers(9, 9, 3).keys()
    assert all(torch.equal(memory[name], remembered[name]) for name in memory)
    assert whole.weight[1].argmax() == 2, "the first batch's edit is still learned"


def test_layers_without_statistics_are_named():
    for solver in (BetaEdit(), LyapLock(), Rotate(), EvoEdit()):
        with pytest.raises(Exception, match="layer 3 has no key second moment"):
            solver.prepare(Layer(gaussian(D_OUT, D_IN), 3))
