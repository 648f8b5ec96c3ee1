"""What the plan counts with: jobs, and the lengths of the datasets' texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

CHARACTERS = 4
"""Bytes of text a token."""
START = 30.0
"""Seconds a job takes to start."""


@dataclass(frozen=True)
class Texts:
    """Mean lengths of a dataset's texts in tokens, at ``CHARACTERS`` a token, from 1,000 records of each."""

    prompt: int
    tail: int
    """From the subject's last token to the end of the target."""
    target: int
    scored: int
    """All that teacher forcing reads for one record."""
    generations: int
    """Generation prompts of a record."""


COUNTERFACT = Texts(prompt=8, tail=7, target=2, scored=304, generations=10)
ZSRE = Texts(prompt=11, tail=6, target=3, scored=46, generations=0)


def texts_of(dataset: str) -> Texts:
    """The lengths of a dataset, told from its name as its family of metrics is."""
    return ZSRE if dataset.casefold().startswith("zsre") else COUNTERFACT


@dataclass(frozen=True)
class Job:
    """Jobs that differ in nothing but the seed. Sizes in bytes."""

    rule: str
    model: str
    dataset: str = ""
    method: str = ""
    edits: int = 0
    count: int = 1
    gpu_least: float = 0
    """GPU memory with micro-batches of one request; 0 without a GPU."""
    gpu_most: float = 0
    """GPU memory with full micro-batches, which an out-of-memory error halves."""
    host: float = 0
    """Main memory."""
    seconds: float = 0
    written: float = 0
    """What one job leaves on disk."""
    temporary: bool = False
    """Whether that is removed once it was continued from and evaluated."""


def one_after_the_other(jobs: Sequence[Job], *, rule: str) -> Job:
    """One job that does what these do, in one process."""
    return replace(
        jobs[-1],
        rule=rule,
        edits=max(job.edits for job in jobs),
        gpu_least=max(job.gpu_least for job in jobs),
        gpu_most=max(job.gpu_most for job in jobs),
        host=max(job.host for job in jobs),
        seconds=sum(job.seconds for job in jobs) - START * (len(jobs) - 1),
        written=sum(job.written for job in jobs),
        temporary=any(job.temporary for job in jobs),
    )
