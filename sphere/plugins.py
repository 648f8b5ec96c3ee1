"""What other installed packages add, by the entry points of their metadata. No torch, and nothing is loaded unasked.

A package names what it adds in its own pyproject.toml, ``[project.entry-points."sphere.solvers"]`` and so on
(docs/adding-a-method.md). It is imported when a study, or somebody, uses the name: a package that is broken costs those
who use it one line, and nobody else anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from sphere.errors import InputError

Group = Literal["sphere.solvers", "sphere.postprocesses", "sphere.methods", "sphere.families", "sphere.tasks"]
GROUPS: Mapping[Group, str] = {
    "sphere.solvers": "solver",
    "sphere.postprocesses": "post-process",
    "sphere.methods": "method",
    "sphere.families": "model family",
    "sphere.tasks": "task",
}
"""Every group, and what a name in it stands for."""


@dataclass(frozen=True)
class Added:
    """One thing that an outside package adds."""

    value: Any
    package: str
    """Its name and version: ``sphere-ridge 1.0``."""
    where: str
    """What a message calls it: ``solver 'ridge' of sphere-ridge 1.0``."""

    def of_kind(self, kind: type[Any] | tuple[type[Any], ...], what: str) -> Any:
        """The value, if it is an instance, or a subclass, of ``kind``; InputError in one line if not."""
        fits = issubclass(self.value, kind) if isinstance(self.value, type) else isinstance(self.value, kind)
        if not fits:
            shown = getattr(self.value, "__name__", type(self.value).__name__)
            raise InputError(f"{self.where} is {shown}, not {what}: mend or uninstall the package")
        return self.value


def names(group: Group) -> list[str]:
    """What outside packages call the things they add to ``group``."""
    return sorted(_found(group))


def added(group: Group, name: str, *, known: Collection[str] = ()) -> Added | None:
    """What an outside package adds as ``name``, imported; None if there is none.

    ``known`` are the names that sphere has itself. Raises InputError, in one line that names the packages, where two
    claim the name, or one and sphere itself, and where the package cannot be imported.
    """
    claims = _found(group).get(name, ())
    if not claims:
        return None
    what = f"{GROUPS[group]} {name!r}"
    owners = [_package(claim) for claim in claims] + (["sphere itself"] if name in known else [])
    if len(owners) > 1:
        raise InputError(f"{what} is claimed by {' and by '.join(sorted(owners))}: uninstall one, or rename it there")
    (claim,) = claims
    where = f"{what} of {owners[0]}"
    try:
        value = claim.load()
    except Exception as error:  # whatever importing somebody else's code raises
        reason = next(iter(str(error).strip().splitlines()), "no message")
        raise InputError(
            f"{where} cannot be imported ({type(error).__name__}: {reason}): mend or uninstall the package"
        ) from error
    return Added(value, owners[0], where)


def packages() -> dict[str, str]:
    """Name -> version of every installed package that adds anything, used or not; for provenance."""
    claims = (claim for group in GROUPS for each in _found(group).values() for claim in each)
    return {claim.dist.name: claim.dist.version for claim in claims if claim.dist is not None}


@cache
def _found(group: Group) -> dict[str, tuple[EntryPoint, ...]]:
    """Name -> the entry points that claim it, one a package."""

    def distinct() -> Iterator[EntryPoint]:
        seen = set()
        for point in entry_points(group=group):
            if (key := (point.name, point.value, _package(point))) not in seen:  # a path may stand twice in sys.path
                seen.add(key)
                yield point

    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in distinct():
        found[point.name] = (*found.get(point.name, ()), point)
    return found


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
