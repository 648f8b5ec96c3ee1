"""Progress of long jobs: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.progress import track as rich_track

T = TypeVar("T")


def track(items: Iterable[T], label: str, *, every_seconds: float = 10.0) -> Iterator[T]:
    """Yield ``items`` and say on stderr how far it is."""
    if sys.stderr.isatty():
        yield from rich_track(items, description=label)
        return
    total = len(items) if isinstance(items, Sized) else None
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= every_seconds:
            last = now
            share = f"{done}/{total}" if total is not None else str(done)
            print(f"{label}: {share} after {now - start:.0f} s", file=sys.stderr, flush=True)
        yield item
    print(f"{label}: done in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
