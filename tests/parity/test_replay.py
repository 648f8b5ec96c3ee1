"""Tails run again, packed and padded, against each other and against the model itself, for each family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from conftest import FAMILIES, ModelMaker

from sphere.editing.replay import Replay, Row, record
from sphere.models.adapters import Adapter
from sphere.models.hooks import capture_output

ROWS = [Row((3, 4, 5, 6, 7), 2), Row((9, 8, 7, 6, 5, 4, 3, 2), 1), Row((3, 4), 1), Row((13,), 0), Row((3, 4, 6), 1)]
OWN_ATTENTION = {"gptj"}
"""Families whose attention is not the model library's interface: their tails are padded."""


def everywhere(replay: Replay) -> torch.Tensor:
    return torch.arange(len(replay.tail))


def recorded(family: str, model_of: ModelMaker) -> Replay:
    return record(Adapter(model_of(family, 64).double()), ROWS, layer=1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("tree", "layer"), [(9, 1), (1024, 1), (1024, 2)])
def test_a_clean_run_is_the_models_own(
    family: str, tree: int, layer: int, tiny_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the texts are recorded as one tree, in which two begin alike, or as several, and if one layer is left."""
    monkeypatch.setattr("sphere.editing.replay.TREE", tree)
    model = tiny_model(family, 64).double()
    parts = Adapter(model)
    replay = record(parts, ROWS, layer=layer)
    implementation = model.config._attn_implementation
    again = replay.run(replay.tail[replay.pivots], everywhere(replay)).split(replay.layout.lengths.tolist())
    assert model.config._attn_implementation == implementation
    for got, row in zip(again, ROWS, strict=True):
        with capture_output(parts.layers[-1]) as seen:
            model(torch.tensor([row.ids]))
        torch.testing.assert_close(got, seen[0][0, row.pivot :], rtol=1e-5, atol=5e-6)  # some compute parts in float32


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_tails_are_the_padded_ones(family: str, tiny_model: ModelMaker) -> None:
    replay = recorded(family, tiny_model)
    assert replay.packed == (family not in OWN_ATTENTION and replay.config._attn_implementation != "eager")
    padded = replace(replay, packed=False)
    generator = torch.Generator().manual_seed(0)
    for rows in (torch.arange(5), torch.tensor([3, 0, 2])):
        found = []
        one, other = replay.select(rows), padded.select(rows)
        change = torch.randn(len(rows), replay.tail.shape[1], generator=generator, dtype=torch.float64)
        weights = torch.randn(one.tail.shape, generator=generator, dtype=torch.float64)
        for each in (one, other):
            moved = (each.tail[each.pivots] + change).requires_grad_()
            states = each.run(moved, everywhere(each))
            found.append((states.detach(), torch.autograd.grad((states * weights).sum(), moved)[0]))
        torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_read_is_not_computed(family: str, tiny_model: ModelMaker) -> None:
    """Its states, and the gradient through them, are those of a run that reads every token."""
    replay = recorded(family, tiny_model)
    read = torch.tensor([2, 0, 9, 11])
    weights = torch.randn(4, replay.tail.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    with seen_tokens(replay.upper[-1].mlp) as last:
        for tokens in (everywhere(replay), read):
            moved = (replay.tail[replay.pivots] + 1).requires_grad_()
            states = replay.run(moved, tokens)
            states = states if tokens is read else states[read]
            found.append((states.detach(), torch.autograd.grad((states * weights).sum(), moved)[0]))
    torch.testing.assert_close(*found)
    if replay.packed:
        assert last == [len(replay.tail), len(read)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_recording_takes_the_tails_no_further_than_it_must(family: str, tiny_model: ModelMaker) -> None:
    """The layer whose output is held against the replay's has all tokens, those above the ones before the pivots."""
    parts = Adapter(tiny_model(family, 64).double())
    before = {row.ids[:end] for row in ROWS for end in range(1, row.pivot + 1)}
    every = {row.ids[:end] for row in ROWS for end in range(1, len(row.ids) + 1)}
    with seen_tokens(parts.layers[1].mlp) as first, seen_tokens(parts.layers[2].mlp) as second:
        record(parts, ROWS, layer=0)
    assert first[0] == len(every)
    assert second == [len(before)]


@contextmanager
def seen_tokens(module: torch.nn.Module) -> Iterator[list[int]]:
    """How many tokens the module is called with, call after call."""
    seen: list[int] = []

    def count(_module: torch.nn.Module, args: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        seen.append(args[0].shape[:-1].numel())

    handle = module.register_forward_hook(count)
    try:
        yield seen
    finally:
        handle.remove()
