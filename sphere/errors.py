"""The two errors a user can meet, what they gave us and what the arithmetic did, and what the machine may refuse."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input. The message is one line that names the input and the fix."""


class NumericalError(RuntimeError):
    """A computation produced something unusable (NaN, a singular system). The message says what to try."""


FIXES = {
    errno.ENOSPC: "free space there and run the same command again",
    errno.EDQUOT: "free some of your quota and run the same command again",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f) and run the same command again",
    errno.EROFS: "make it writable",
    errno.EACCES: "give yourself access to it",
}
"""What to do, by the number of what the system says."""


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left (torch's own error says so by its name or its allocator's)."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )


def refused_by_machine(error: BaseException) -> str | None:
    """One line for a full disk, a folder that may not be written or memory that is used up; None for anything else.

    Libraries wrap what the system says in errors of their own, so its number is also looked for in the message.
    """
    text = " ".join(str(error).split())
    if out_of_memory(error):
        return (
            f"out of memory with nothing left to split ({text or 'no detail'}): give the job more "
            "(resources.mem_mb, a larger GPU), or take a narrower dtype or a smaller batch_size"
        )
    wrapped = re.search(r"\(os error (\d+)\)", text)
    number = error.errno if isinstance(error, OSError) else int(wrapped[1]) if wrapped else None
    return f"{text}: {FIXES[number]}" if number in FIXES else None


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error message: the valid name that ``name`` resembles, or all of them."""
    choices = sorted(valid)
    if not choices:
        return ": there is none to choose from here"
    close = get_close_matches(name, choices, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}"
