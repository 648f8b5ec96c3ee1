"""Methods by name: a solver and a list of post-processes, in rows of YAML. No torch until a method computes.

``NAME+POSTPROCESS`` adds a post-process to a row, ``NAME@KEY=VALUE`` (once or more) fixes a hyperparameter: each such
name is a method like any other, with a folder, a line in the tables and a place in a study's ``methods``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

import sphere.postprocess
import sphere.solvers
from sphere.errors import InputError
from sphere.plain_yaml import parse_yaml, read_yaml
from sphere.postprocess.base import POSTPROCESSES, PostProcess
from sphere.solvers.base import SOLVERS, ClosedFormSolver, Solver

for _package in (sphere.solvers, sphere.postprocess):  # each module registers what it defines
    for _module in iter_modules(_package.__path__, f"{_package.__name__}."):
        import_module(_module.name)

ROWS = Path(__file__).with_name("methods.yaml")
NAME = r"^[A-Za-z0-9][A-Za-z0-9._+=@-]*$"
LONGEST_NAME = 100
"""A method's name is also a folder's."""

Component = TypeVar("Component", Solver, PostProcess)


class MethodRow(BaseModel):
    """One row of methods.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    solver: str
    """Name of a registered solver."""
    postprocess: tuple[str, ...] = ()
    """Names of registered post-processes, in the order they are applied."""
    hyperparameters: dict[str, Any] = {}
    """Settings that differ from the components' own defaults; a key goes to every component that has it."""


@dataclass(frozen=True)
class Method:
    """An editing method, ready to run."""

    name: str
    solver: Solver
    postprocess: tuple[PostProcess, ...] = ()

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Every setting by its flat name, as ``resolve`` takes them; for provenance and for tuning."""
        settings: dict[str, Any] = {}
        for component in (self.solver, *self.postprocess):
            settings |= component.model_dump(mode="json")
        return settings

    @property
    def needs_statistics(self) -> bool:
        """Whether it takes key second moments."""
        solver = self.solver
        return isinstance(solver, ClosedFormSolver) and (solver.needs_second_moment or solver.needs_null_space)

    @property
    def spectra(self) -> tuple[str, ...]:
        """The decompositions of the unedited model that it reads, by the names of their files (``sphere.spectra``)."""
        keys = isinstance(self.solver, ClosedFormSolver) and self.solver.needs_null_space
        weights = any(process.needs_directions for process in self.postprocess)
        return tuple(name for name, wanted in (("null_space", keys), ("directions", weights)) if wanted)

    def edited_layers(self, layers: Sequence[int]) -> tuple[int, ...]:
        """Those of ``layers`` that it edits: all, or, for ROME and FT, its own ``layer`` or the last."""
        if not layers or list(layers) != sorted(set(layers)):
            raise InputError(f"layers {list(layers)}: give at least one, ascending and without repeats")
        if isinstance(self.solver, ClosedFormSolver) and not self.solver.one_at_a_time:
            return tuple(layers)
        chosen = getattr(self.solver, "layer", None)
        return (layers[-1] if chosen is None else chosen,)


def resolve(
    name: str,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
) -> Method:
    """The method called ``name``: a row's name, with ``+postprocess`` and ``@key=value`` added once or more.

    ``hyperparameters`` is flat, ``{"second_moment_weight": 500, "eta": 0.5}``: a key goes to every component
    of the method that has it, over the row's value, over the component's default; what the name itself fixes goes over
    all. ``rows`` adds to the package's rows or replaces them. Raises InputError, with the nearest valid name, on an
    unknown method, component or hyperparameter, and on a value out of range.
    """
    table = _rows() | _parse(rows or {}, "rows")
    base, fixed = split_name(name)
    added = list[str]()
    while base not in table and "+" in base:
        base, _, suffix = base.rpartition("+")
        added.insert(0, suffix)
    if base not in table:
        raise InputError(f"unknown method {base!r}{nearest(base, table)}")
    row = table[base]
    names = [*row.postprocess, *added]
    if len(set(names)) < len(names):
        raise InputError(f"method {name!r} applies {', '.join(names)}: name each post-process once")
    solver = _find(SOLVERS, row.solver, "solver", name)
    later = [_find(POSTPROCESSES, each, "post-process", name) for each in names]
    settings = {**row.hyperparameters, **(hyperparameters or {}), **fixed}
    valid = {key for component in (solver, *later) for key in component.model_fields}
    for key in settings:
        if key not in valid:
            raise InputError(f"method {name!r} has no hyperparameter {key!r}{nearest(key, valid)}")
    return Method(name, _build(solver, settings, name), tuple(_build(each, settings, name) for each in later))


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """``sphere@eta=0.3@alpha=0.7`` -> ``("sphere", {"eta": 0.3, "alpha": 0.7})``.

    Raises InputError on a name that cannot be a folder's, and on a part that is no KEY=VALUE or comes twice.
    """
    if len(name) > LONGEST_NAME or not re.fullmatch(NAME, name):
        raise InputError(
            f"method {name[:LONGEST_NAME]!r} cannot be a folder's name: begin it with a letter or digit and take at "
            f"most {LONGEST_NAME} letters, digits and . _ + = @ -"
        )
    base, *parts = name.split("@")
    settings: dict[str, Any] = {}
    for part in parts:
        key, _, text = part.partition("=")
        if not key or not text:
            raise InputError(f"method {name!r}: {part!r} sets nothing: write NAME@KEY=VALUE")
        if key in settings:
            raise InputError(f"method {name!r} sets {key!r} twice: drop one")
        value = parse_yaml(text, f"method {name!r}: the value of {key!r}")
        if not isinstance(value, str | int | float | None):
            raise InputError(f"method {name!r}: the value of {key!r} is no number or word: write NAME@KEY=VALUE")
        settings[key] = value
    return base, settings


def method_names(rows: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[str, ...]:
    """The plain names of all rows, the package's and ``rows``'; each can be extended by ``+sphere``."""
    return tuple(name for name in _rows() | _parse(rows or {}, "rows") if "+" not in name)


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error message: the valid name that ``name`` resembles, or all of them."""
    choices = sorted(valid)
    close = get_close_matches(name, choices, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}"


@cache
def _rows() -> dict[str, MethodRow]:
    return _parse(read_yaml(ROWS), str(ROWS))


def _parse(rows: Any, where: str) -> dict[str, MethodRow]:
    if not isinstance(rows, Mapping):
        raise InputError(f"{where} holds no methods: write lines of 'name: {{solver: NAME}}'")
    parsed = {}
    for name, row in rows.items():
        if not isinstance(name, str) or "@" in name or not re.fullmatch(NAME, name):
            raise InputError(
                f"{where}: method row {name!r}: name it by letters, digits and . _ + -, and put a number in quotes"
            )
        try:
            parsed[name] = MethodRow.model_validate(row)
        except ValidationError as error:
            raise InputError(f"{where}: method row {name!r}: {_first(error)}") from error
    return parsed


def _find(registry: Mapping[str, type[Component]], name: str, kind: str, method: str) -> type[Component]:
    if name not in registry:
        raise InputError(f"method {method!r} names the unknown {kind} {name!r}{nearest(name, registry)}")
    return registry[name]


def _build(component: type[Component], settings: Mapping[str, Any], method: str) -> Component:
    own = {key: value for key, value in settings.items() if key in component.model_fields}
    try:
        return component.model_validate(own)
    except ValidationError as error:
        raise InputError(f"method {method!r}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """The first problem pydantic found, in one line: where, what is wrong, what was given."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the row"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]} (got {problem['input']!r})"
