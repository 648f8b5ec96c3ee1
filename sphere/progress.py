"""Progress of long jobs: a bar on a terminal, a line now and then in a log, and when they had what they work on."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.progress import track as rich_track

T = TypeVar("T")

RUN_SECONDS = 60.0
"""Time from one line to the next in a run's own log."""
_run: ContextVar[Callable[[str], None] | None] = ContextVar("run", default=None)
"""Says a line in the log of the run that this process is a job of; None outside of one."""
_ready: list[float] = []
"""CPU seconds that this process had spent when it first had what it works on."""
_own_threshold = gc.get_threshold()
IMPORTED = 50_000
"""New objects at which a process that starts looks for garbage: imports make a million of them, and no garbage."""


def starting() -> None:
    """Say that this process is going to load what it works on: until it is ready, it looks for garbage seldom."""
    gc.set_threshold(IMPORTED, *_own_threshold[1:])


def ready() -> None:
    """Say that this process has loaded what it works on, of which the first time counts."""
    gc.set_threshold(*_own_threshold)
    _ready.append(time.process_time())


def start_up(otherwise: float) -> float:
    """CPU seconds that this process spent before it was ``ready``; ``otherwise`` if it never said so."""
    return _ready[0] if _ready else otherwise


@contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
    """Say the progress of long jobs through ``say`` too, now and then, as long as the block lasts."""
    before = _run.set(say)
    try:
        yield
    finally:
        _run.reset(before)


def track(items: Iterable[T], label: str, *, every_seconds: float = 10.0) -> Iterator[T]:
    """Yield ``items`` and say on stderr how far it is."""
    if sys.stderr.isatty():
        yield from rich_track(items, description=label)
        return
    total = len(items) if isinstance(items, Sized) else None
    start = last = told = time.monotonic()
    say = _run.get()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= every_seconds:
            last = now
            share = f"{done}/{total}" if total is not None else str(done)
            left = f", about {(now - start) * (total - done) / done:.0f} s left" if total is not None and done else ""
            line = f"{label}: {share} after {now - start:.0f} s{left}"
            print(line, file=sys.stderr, flush=True)
            if say is not None and now - told >= RUN_SECONDS:
                told = now
                say(line)
        yield item
    print(f"{label}: done in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
