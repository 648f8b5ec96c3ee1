"""Floating-point operations are counted as they run, and counting changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from conftest import ModelMaker, TokenizerMaker
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing import measurement
from sphere.editing.contexts import Contexts
from sphere.editing.loop import Editor
from sphere.editing.measurement import Clock, Record
from sphere.editing.methods import resolve
from sphere.editing.operations import Operations
from sphere.editing.state import EditState
from sphere.editing.stats import Statistics


class Uncounted(nullcontext[None]):
    """In the place of ``Operations``: nothing stands between PyTorch and what runs."""

    count = 0.0


def counted(call: Callable[[], object]) -> float:
    with Operations() as operations:
        call()
    return operations.count


def matrix(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


SQUARE = matrix(6, 6)
SYMMETRIC = SQUARE @ SQUARE.T + 6 * torch.eye(6, dtype=torch.float64)
KNOWN: dict[str, tuple[Callable[[], object], float]] = {
    "a product": (lambda: matrix(3, 4) @ matrix(4, 5), 2 * 3 * 4 * 5),
    "several": (lambda: matrix(7, 3, 4) @ matrix(7, 4, 5), 7 * 2 * 3 * 4 * 5),
    "with a bias": (lambda: torch.nn.functional.linear(matrix(3, 4), matrix(5, 4), matrix(5)), 2 * 3 * 4 * 5),
    "a vector": (lambda: matrix(3, 4) @ matrix(4), 2 * 3 * 4),
    "entry by entry": (lambda: (matrix(3, 4) * 2).exp().sum(), 0),
    "attention": (
        lambda: scaled_dot_product_attention(matrix(2, 4, 5, 8), matrix(2, 4, 7, 8), matrix(2, 4, 7, 8)),
        2 * (2 * 2 * 4 * 5 * 7 * 8),
    ),
    "Cholesky's factor": (lambda: torch.linalg.cholesky_ex(SYMMETRIC), 6**3 / 3),
    "a system by it": (lambda: torch.cholesky_solve(matrix(6, 2), torch.linalg.cholesky(SYMMETRIC)), 6**3 / 3 + 4 * 36),
    "a system": (lambda: torch.linalg.solve(SQUARE, matrix(6, 2)), 2 / 3 * 6**3 + 4 * 36),
    "eigenvectors": (lambda: torch.linalg.eigh(SYMMETRIC), 9 * 6**3),
    "singular vectors": (lambda: torch.linalg.svd(matrix(4, 6), full_matrices=False), 6 * 6 * 4**2 + 20 * 4**3),
    "all of them": (lambda: torch.linalg.svd(matrix(6, 4)), 4 * 6**2 * 4 + 22 * 4**3),
    "QR": (lambda: torch.linalg.qr(matrix(6, 4)), 4 * 6 * 4**2 - 4 / 3 * 4**3),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known(name: str) -> None:
    call, operations = KNOWN[name]
    assert counted(call) == pytest.approx(operations)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_model_forward_and_back_is_what_pytorch_counts(
    name: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """PyTorch's own counter knows products; attention by hand is made of them."""
    model = tiny_model(name, len(tiny_tokenizer(True))).requires_grad_(True)
    model.set_attn_implementation("eager")
    ids = torch.arange(12).reshape(2, 6)

    def step() -> None:
        model(ids).logits.sum().backward()

    with FlopCounterMode(display=False) as theirs:
        step()
    assert counted(step) == theirs.get_total_flops() > 0
    model.set_attn_implementation("sdpa")
    more = counted(step)
    assert theirs.get_total_flops() <= more < 1.1 * theirs.get_total_flops(), "attention's way back is five for four"


def test_a_phase_is_counted_but_for_energy() -> None:
    clock = Clock(torch.device("cpu"), count=True)
    for phase in ("targets", "solve", "energy"):
        with clock(phase):
            matrix(3, 4) @ matrix(4, 5)
    assert set(clock.seconds) == {"targets", "solve", "energy"}
    assert clock.operations == 2 * (2 * 3 * 4 * 5)
    with pytest.raises(ValueError, match="stop"), clock("solve"):
        raise ValueError("stop")
    matrix(3, 4) @ matrix(4, 5)
    assert clock.operations == 2 * (2 * 3 * 4 * 5), "a phase that failed is over"


@pytest.mark.parametrize("method", ["memit-seq", "evoedit", "ft"])
def test_an_edit_is_counted_alike_twice_and_left_to_the_bit(
    method: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer(True)
    requests = [EditRequest(i, f"A{i}", f"A{i} lives in", 0, "Rome", None) for i in range(2)]

    def run() -> tuple[list[float], EditState]:
        records: list[Record] = []
        model = tiny_model("llama", len(tokenizer))
        chosen = resolve(method)
        statistics = Statistics({1: torch.eye(model.config.intermediate_size, dtype=torch.float64)}, {}, 1000)
        editor = Editor(
            model, tokenizer, chosen, layers=(1,), values=ValueSettings(steps=2), contexts=Contexts(),
            statistics=statistics,
        )  # fmt: skip
        state = editor.run(requests, batch_size=1, on_batch=records.append)
        return [record.operations for record in records], state

    (counts, state), (again, _) = run(), run()
    assert counts[:1] == again[:1]
    assert counts[0] > 1e5
    assert math.isnan(counts[1]), "the first batch says it"
    with monkeypatch.context() as patch:
        patch.setattr(measurement, "Operations", Uncounted)
        none, uncounted = run()
    assert none[0] == 0
    assert all(torch.equal(weight, uncounted.weights[i]) for i, weight in state.weights.items())
