"""Two ways to the same result, timed in turn, and one row of the table for them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import sphere

Fast = TypeVar("Fast")
Plain = TypeVar("Plain")
Work = TypeVar("Work")


@dataclass(frozen=True)
class Goal:
    """A bound on a row's value."""

    bound: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Row:
    """One line of the table. A row without values was not run, and its note says why."""

    what: str
    on: str
    values: list[float] = field(default_factory=list)
    """One a repeat."""
    unit: str = "x"
    goal: Goal | None = None
    fast: float | None = None
    """Median seconds of the library."""
    plain: float | None = None
    """Median seconds of the opponent, for the same amount of work."""
    operations: float | None = None
    """Plain's floating-point operations over the library's."""
    difference: float | None = None
    """Largest relative difference between the two results."""
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Series:
    """One cost at several sizes, or of several parts."""

    what: str
    by: str
    sizes: list[int] | list[str]
    costs: list[float]
    unit: str = "seconds"


@dataclass(frozen=True)
class Timing(Generic[Fast, Plain]):
    """Seconds of each repeat, and the results of the last one."""

    fast: list[float]
    plain: list[float]
    fast_result: Fast
    plain_result: Plain

    def ratios(self, scale: float = 1.0) -> list[float]:
        """Plain over fast, repeat by repeat; ``scale`` is fast's amount of work over plain's."""
        return [scale * plain / fast for fast, plain in zip(self.fast, self.plain, strict=True)]


def seconds(run: Callable[[], Fast]) -> tuple[float, Fast]:
    """Seconds by ``now`` and the result."""
    start = now()
    result = run()
    return now() - start, result


def now() -> float:
    """Wall seconds, with what a GPU was given done; of one thread CPU seconds, which no other process enters."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def in_turn(fast: Callable[[], Fast], plain: Callable[[], Plain], *, repeats: int) -> Timing[Fast, Plain]:
    """Time fast, plain, fast, plain, ...: what else the machine does meets both alike."""
    pairs = [(seconds(fast), seconds(plain)) for _ in range(repeats)]
    return Timing([f[0] for f, _ in pairs], [p[0] for _, p in pairs], pairs[-1][0][1], pairs[-1][1][1])


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and attention, forward and backward.

    Attention is made of matrix products here: of the fused kernels the counter leaves out a CPU's, and refuses a GPU's
    where heads share keys.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def operation_ratio(fast: Callable[[Work], object], plain: Callable[[Work], object], work: Work) -> float:
    """Plain's operations over fast's, on the same work."""
    return operations(lambda: plain(work)) / operations(lambda: fast(work))


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """Operations a second of a square matrix product: the best of three."""
    matrix = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(seconds(lambda: matrix @ matrix)[0] for _ in range(3))


def machine() -> dict[str, str | int]:
    """What the figures were measured on, and the load (processes that want a core) at this moment."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "clock": "CPU" if torch.get_num_threads() == 1 and not torch.cuda.is_available() else "wall",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "sphere": sphere.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
