"""Capture and replace activations, for as long as a ``with`` block lasts."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class StopForward(Exception):  # noqa: N818 (a signal, no error)
    """Raised by a hook to end a forward pass whose remaining layers nobody needs."""


def hidden(output: Any) -> Tensor:
    """The hidden states in a layer's output, which is a tensor or a tuple that begins with one."""
    state = output[0] if isinstance(output, tuple) else output
    assert isinstance(state, Tensor)
    return state


@contextmanager
def removing(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Hooks that are gone behind the block, however it ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture_inputs(modules: Mapping[int, nn.Module], *, stop_after: int | None = None) -> Iterator[dict[int, Tensor]]:
    """Collect the first positional input of each module on the next forward pass.

    ``stop_after`` names the module after whose input the pass may end (StopForward, swallowed by ``forward``).
    """
    seen: dict[int, Tensor] = {}

    def hook(name: int) -> Any:
        def pre(_module: nn.Module, args: tuple[Any, ...]) -> None:
            seen[name] = args[0].detach()
            if name == stop_after:
                raise StopForward

        return pre

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    with removing(handles):
        yield seen


@contextmanager
def capture_output(module: nn.Module, *, stop: bool = False) -> Iterator[list[Tensor]]:
    """Collect the hidden states a layer puts out; ``stop`` ends the pass there."""
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.append(hidden(output).detach())
        if stop:
            raise StopForward

    handle = module.register_forward_hook(hook)
    with removing([handle]):
        yield seen


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a module is called with, by the names in its ``forward``."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    flat = {name: value for name, value in bound.items() if name != "kwargs"}
    return flat | dict(bound.get("kwargs", {}))


@contextmanager
def capture_calls(modules: Sequence[nn.Module]) -> Iterator[list[dict[str, Any]]]:
    """Collect the arguments of each module's next call, by the names in its ``forward``, in the order of the calls."""
    calls: list[dict[str, Any]] = []

    def pre(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(by_name(module, args, kwargs))

    handles = [module.register_forward_pre_hook(pre, with_kwargs=True) for module in modules]
    with removing(handles):
        yield calls


def forward(module: nn.Module, **inputs: Any) -> Any:
    """Call ``module``; a pass ended by StopForward returns None."""
    try:
        return module(**inputs)
    except StopForward:
        return None
