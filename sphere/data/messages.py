"""What downloads say when they cannot go on, in one line and without secrets."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sphere.errors import InputError


def no_room(out: Path, needed: int | None) -> InputError:
    """What to raise where ``out`` does not fit; ``needed`` bytes are missing, if that is known."""
    free = shutil.disk_usage(out.parent).free
    more = "more" if needed is None else f"{needed / 1e6:,.0f} MB more"
    return InputError(
        f"{out} needs {more}, {out.parent} has room for {free / 1e6:,.0f} MB: free some, or set results=ELSEWHERE"
    )


def line(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    return public(next(iter(str(error).strip().splitlines()), type(error).__name__))


def public(text: str) -> str:
    """``text`` without what addresses in it may hold that is secret: user, password, and the query, which may sign."""
    return re.sub(r"\?[^\s'\"]+", "", re.sub(r"(?<=://)[^/\s]*@", "", text))
