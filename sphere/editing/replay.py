"""Run the upper layers again on the tails of a batch, with everything below and before them computed once.

Rows are kept with the subject's last token in one column: ``[pad, prefix] [subject's last token, rest, pad]``.
A change of the hidden state at that column changes nothing in the columns before it nor in the layers below, so the
prefix's keys and values in the upper layers and the position embeddings are recorded once and reused.
The recording is of the layers' own calls, so it knows nothing of the architecture. It is of trees of texts: what they
begin with alike, such as the contexts, is run once. Where the model's attention allows, the tails are run packed,
without padding (``packing``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedConfig

from sphere.editing.packing import Layout, Prefix, can_pack, packed_attention
from sphere.models.adapters import Adapter
from sphere.models.hooks import by_name, capture_calls, capture_output, forward, hidden, removing

TREE = 1024
"""Nodes of one tree of texts: what attention costs grows with their square."""
CACHE_ARGUMENTS = ("past_key_values", "layer_past")
"""What architectures call a layer's key-value cache."""


@dataclass(frozen=True)
class Row:
    """One text and the column at which its hidden state may be changed."""

    ids: tuple[int, ...]
    pivot: int
    """Index of the subject's last token."""


class _Cache:
    """Stands in for a layer's key-value cache, never written to: puts the prefix, if any, before the tails'."""

    def __init__(self, prefix: Prefix | None) -> None:
        self.prefix = prefix

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self.prefix is None:
            return keys, values
        return torch.cat([self.prefix.keys, keys], dim=2), torch.cat([self.prefix.values, values], dim=2)


@dataclass(frozen=True)
class Replay:
    """A recorded batch of B rows, whose tails, from the pivot on, have N tokens in all and at most T each."""

    tail: Tensor
    """(N, d) clean hidden states behind the changed layer, row after row."""
    outputs: Tensor
    """(B, d) what its MLP puts out at the pivots."""
    layout: Layout
    config: PreTrainedConfig
    upper: list[nn.Module]
    arguments: list[dict[str, Any]]
    """Keyword arguments of each upper layer's call, cut to the tails' T columns."""
    prefixes: list[Prefix]
    cache_names: list[str]
    last_mlp: nn.Module | None
    """The last layer's."""
    packed: bool

    @property
    def pivots(self) -> Tensor:
        """(B,) the rows' pivots among the N tokens."""
        return self.layout.starts

    def run(self, changed: Tensor, read: Tensor) -> Tensor:
        """Hidden states (R, d) of the tokens ``read`` (R,), each given once, behind the last layer.

        The pivots' states (B, d) are replaced by ``changed``.
        """
        mlp = self.last_mlp if self.packed else None
        with nullcontext() if mlp is None else _tokens_alone(mlp, read, len(self.tail)):
            for state in self.walk(changed):  # noqa: B007 (the last is wanted)
                pass
        return state.index_select(0, read)

    def walk(self, changed: Tensor) -> Iterator[Tensor]:
        """The states (N, d) behind the changed layer, and then behind each layer above it."""
        flat = self.tail.index_put((self.pivots,), changed)
        yield flat
        state = flat[None] if self.packed else self.layout.pad(flat)
        for layer, call, prefix in zip(self.upper, self._calls, self.prefixes, strict=True):
            with packed_attention(self.config, self.layout, prefix) if self.packed else nullcontext():
                state = hidden(layer(state, **call))
            yield state[0] if self.packed else self.layout.pack(state)

    @cached_property
    def _calls(self) -> list[dict[str, Any]]:
        """What each upper layer is called with beside the states."""
        size, calls = len(self.outputs), []
        pack = lambda value: self.layout.pack(value)[None]  # noqa: E731
        for arguments, prefix, name in zip(self.arguments, self.prefixes, self.cache_names, strict=True):
            call = dict(arguments)
            if self.packed:
                rest = {key: value for key, value in arguments.items() if key != "attention_mask"}
                call |= {key: _per_row(value, size, pack) for key, value in rest.items()}
            calls.append(call | {name: _Cache(None if self.packed else prefix)})
        return calls

    def select(self, rows: Tensor) -> Replay:
        """The same for some of the rows (int64 indices)."""
        size = len(self.outputs)
        layout = Layout.of(self.layout.lengths[rows], rows.device)
        columns = layout.token.shape[1]

        def chosen(call: dict[str, Any]) -> dict[str, Any]:
            return {name: _per_row(value, size, lambda t: t[rows]) for name, value in call.items()}

        return replace(
            self,
            tail=self.tail[self.layout.tokens_of(rows)],
            outputs=self.outputs[rows],
            layout=layout,
            arguments=[_cut(chosen(call), len(rows), columns) for call in self.arguments],
            prefixes=[Prefix(prefix.keys[rows], prefix.values[rows]) for prefix in self.prefixes],
        )


@torch.no_grad()
def record(adapter: Adapter, rows: Sequence[Row], *, layer: int) -> Replay:
    """One clean forward pass over ``rows``; what the layers above ``layer`` need of it is kept."""
    trees = _Trees.of(rows, adapter.device)
    upper = list(adapter.layers[layer + 1 :])
    cache = DynamicCache()
    with (
        _windows(adapter, trees),
        capture_calls(upper) as calls,
        capture_output(adapter.layer(layer)) as states,
        capture_output(upper[0]) as above,
        capture_output(adapter.projection(layer)) as outputs,
        capture_output(upper[-1], stop=True),
        _without_tails(upper[1:], trees),
    ):
        forward(
            adapter.backbone,
            input_ids=trees.ids,
            attention_mask=_additive(trees.sees, adapter.dtype).unsqueeze(1),
            position_ids=trees.depths,
            past_key_values=cache,
            use_cache=True,
        )

    layout = Layout.of([len(row.ids) - row.pivot for row in rows], adapter.device)
    before, tails = trees.before, trees.tails
    real = torch.cat([before, tails], dim=1) >= 0  # (B, P + T)
    names = [next(name for name in CACHE_ARGUMENTS if name in call) for call in calls]
    windows = [adapter.window(i) for i in range(layer + 1, adapter.n_layers)]
    masks = {
        window: _attention_mask(real, adapter.dtype, window=window)[:, :, before.shape[1] :] for window in set(windows)
    }
    width = trees.ids.shape[1]
    near = (before // width * trees.shared + before % width).where(before >= 0, 0)  # (B, P) of what all layers see
    prefixes, arguments = [], []
    held: Sequence[Any] = cache.layers[layer + 1 :]
    for call, name, window, stored in zip(calls, names, windows, held, strict=True):
        cut = (each[:, :, : trees.shared].transpose(1, 2) for each in (stored.keys, stored.values))
        kept = (each.flatten(0, 1)[near] for each in cut)
        prefixes.append(Prefix(*(each.transpose(1, 2).contiguous() for each in kept)))
        rest = {key: value for key, value in call.items() if key not in ("hidden_states", "attention_mask", name)}
        given = {key: _per_row(value, len(trees.ids), lambda t: t.flatten(0, 1)[tails]) for key, value in rest.items()}
        arguments.append(given | {"attention_mask": masks[window], "use_cache": True})
    flat = layout.pack(tails)  # (N,)
    found = Replay(
        *(states[0].flatten(0, 1)[flat], outputs[0].flatten(0, 1)[tails[:, 0]], layout, adapter.model.config),
        *(upper, arguments, prefixes, names),
        last_mlp=adapter.mlp(adapter.n_layers - 1),
        packed=can_pack(adapter.model.config),
    )
    return found if _as_recorded(found, above[0].flatten(0, 1)[flat]) else replace(found, packed=False)


@dataclass(frozen=True)
class _Trees:
    """The different beginnings of the rows: a token behind the same tokens is computed once, whoever has it.

    Rows share C trees of at most M nodes; a node is a token, and its index is into the flattened (C x M). In each tree
    those that stand before a pivot come first: no layer above the second one that is replayed needs the others.
    """

    shared: int
    """How many nodes of a tree stand before a pivot, at most."""
    ids: Tensor
    """(C, M)"""
    depths: Tensor
    """(C, M) the nodes' positions."""
    sees: Tensor
    """(C, M, M) bool: what comes before each, and itself."""
    before: Tensor
    """(B, P) the nodes before each row's pivot, as late as they can stand; padding, as below, is -1."""
    tails: Tensor
    """(B, T) the nodes from the pivots on."""

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> _Trees:
        trees: list[dict[tuple[int, int], int]] = [{}]  # (the node before, token) -> node
        found = []
        for row in rows:
            if trees[-1] and len(trees[-1]) + len(row.ids) > TREE:
                trees.append({})
            nodes = [-1]
            for token in row.ids:
                nodes.append(trees[-1].setdefault((nodes[-1], token), len(trees[-1])))
            found.append((len(trees) - 1, nodes[1:]))
        order: list[dict[int, int]] = [{} for _ in trees]  # node -> its number, those before a pivot first
        for row, (tree, nodes) in zip(rows, found, strict=True):
            for node in nodes[: row.pivot]:
                order[tree].setdefault(node, len(order[tree]))
        shared = max(1, *map(len, order))
        for tree, nodes in found:
            for node in nodes:
                order[tree].setdefault(node, len(order[tree]))
        places = [(tree, torch.tensor([order[tree][node] for node in nodes])) for tree, nodes in found]
        width = max(map(len, trees))
        ids, depths = torch.zeros(2, len(trees), width, dtype=torch.long)
        sees = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
        for row, (tree, path) in zip(rows, places, strict=True):
            ids[tree, path], depths[tree, path] = torch.tensor(row.ids), torch.arange(len(path))
            sees[tree, path[:, None], path] = torch.ones(len(path), len(path), dtype=torch.bool).tril()
        halves = [
            (tree * width + path).split([row.pivot, len(path) - row.pivot])
            for row, (tree, path) in zip(rows, places, strict=True)
        ]
        before, tails = map(list, zip(*halves, strict=True))
        columns = [
            pad_sequence(before, batch_first=True, padding_value=-1, padding_side="left"),
            pad_sequence(tails, batch_first=True, padding_value=-1),
        ]
        return cls(shared, *(each.to(device) for each in (ids, depths, sees, *columns)))


def _as_recorded(replay: Replay, above: Tensor) -> bool:
    """Whether the first upper layer puts out what it did, (N, d); one whose attention is its own cannot, packed."""
    if not replay.packed:
        return True
    try:
        _, again = islice(replay.walk(replay.tail[replay.pivots]), 2)
    except (RuntimeError, TypeError, ValueError):  # shapes that its own attention cannot take
        return False
    return bool((again - above).norm() <= torch.finfo(above.dtype).eps ** 0.5 * above.norm())


@contextmanager
def _windows(adapter: Adapter, trees: _Trees) -> Iterator[None]:
    """Each layer that sees a window gets its own mask: the model hands a given mask on as it is to all of them."""
    handles = []
    for i, module in enumerate(adapter.layers):
        if (window := adapter.window(i)) is not None and window <= trees.depths.max():
            near = trees.depths[:, :, None] - trees.depths[:, None] < window
            mask = _additive(trees.sees & near, adapter.dtype).unsqueeze(1)
            handles.append(module.register_forward_pre_hook(_masked_by(mask), with_kwargs=True))
    with removing(handles):
        yield


@contextmanager
def _without_tails(layers: Sequence[nn.Module], trees: _Trees) -> Iterator[None]:
    """These layers see the nodes before the pivots alone."""
    size, columns = len(trees.ids), trees.shared

    def cut(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (), _cut(by_name(module, args, kwargs), size, columns)

    handles = [module.register_forward_pre_hook(cut, with_kwargs=True) for module in layers]
    with removing(handles):
        yield


@contextmanager
def _tokens_alone(mlp: nn.Module, tokens: Tensor, size: int) -> Iterator[None]:
    """``mlp`` takes these of the (1, ``size``, d) that it is given, and puts out zeros for the others."""

    def cut(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(each.index_select(1, tokens) for each in args)

    def spread(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return output.new_zeros(1, size, output.shape[2]).index_copy(1, tokens, output)

    handles = [mlp.register_forward_pre_hook(cut), mlp.register_forward_hook(spread)]
    with removing(handles):
        yield


def _masked_by(mask: Tensor) -> Any:
    return lambda _module, args, kwargs: (args, kwargs | {"attention_mask": mask})


def _attention_mask(real: Tensor, dtype: torch.dtype, *, window: int | None) -> Tensor:
    """Additive causal mask (B, 1, S, S), of the last ``window`` columns if given (a row's tokens stand side by side).

    A padding column sees itself alone, so that no row of it is empty.
    """
    size = real.shape[1]
    allowed = torch.ones(size, size, dtype=torch.bool, device=real.device).tril() & real.unsqueeze(1)  # (B, S, S)
    if window is not None:
        allowed = allowed & torch.ones_like(allowed).triu(1 - window)
    allowed = allowed | torch.eye(size, dtype=torch.bool, device=real.device)
    return _additive(allowed, dtype).unsqueeze(1)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def _cut(call: dict[str, Any], size: int, columns: int) -> dict[str, Any]:
    """A layer's arguments of ``size`` rows restricted to the tails' first ``columns``."""
    cut = {}
    for name, value in call.items():
        if name == "attention_mask":
            keys = value.shape[-1] - value.shape[-2] + columns  # those before the tail, and its own
            cut[name] = value[:, :, :columns, :keys]
        else:
            cut[name] = _per_row(value, size, lambda t: t[:, :columns])
    return cut


def _per_row(value: Any, size: int, take: Any) -> Any:
    """``take`` applied to every tensor with a row per batch row, through tuples; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_per_row(part, size, take) for part in value)
    if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[0] == size:
        return take(value)
    return value
