"""Methods by name: a solver and a list of post-processes, in rows of YAML. No torch until a method computes.

``NAME+POSTPROCESS`` adds a post-process to a row, ``NAME@KEY=VALUE`` (once or more) fixes a hyperparameter: each such
name is a method like any other, with a folder, a line in the tables and a place in a study's ``methods``. Rows, solvers
and post-processes of other installed packages (``sphere.plugins``) stand beside our own.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

import sphere.editing.postprocess
import sphere.editing.solvers
from sphere.config.names import METHOD_NAME, split_name
from sphere.config.values import ValueSettings
from sphere.editing.component import Need
from sphere.editing.postprocess.base import POSTPROCESSES, PostProcess
from sphere.editing.solvers.base import SOLVERS, ClosedFormSolver, Solver
from sphere.errors import InputError, nearest
from sphere.plain_yaml import read_yaml
from sphere.plugins import GROUPS, Group, added, names

for _package in (sphere.editing.solvers, sphere.editing.postprocess):  # each module registers what it defines
    for _module in iter_modules(_package.__path__, f"{_package.__name__}."):
        import_module(_module.name)

OWN: Mapping[Group, frozenset[str]] = {
    "sphere.solvers": frozenset(SOLVERS),
    "sphere.postprocesses": frozenset(POSTPROCESSES),
}
"""The components that this package brings itself."""
VALUES = "values"
"""The key under which a method's settings hold what its target values are found with."""
ROWS = Path(__file__).with_name("methods.yaml")

Part = TypeVar("Part", Solver, PostProcess)


class MethodRow(BaseModel):
    """One row of methods.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    solver: str
    """Name of a registered solver."""
    postprocess: tuple[str, ...] = ()
    """Names of registered post-processes, in the order they are applied."""
    hyperparameters: dict[str, Any] = {}
    """Settings that differ from the components' own defaults; a key goes to every component that has it."""
    values: dict[str, Any] = {}
    """What target values are found with, where it differs from the model's ``values``."""


@dataclass(frozen=True)
class Method:
    """An editing method, ready to run."""

    name: str
    solver: Solver
    postprocess: tuple[PostProcess, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    """What target values are found with, where it differs from the model's ``values``."""
    packages: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Name of the row, the solver or a post-process -> the outside package, with its version, that it comes from."""

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Every setting by its flat name, as ``resolve`` takes them; for provenance and for tuning."""
        settings: dict[str, Any] = {}
        for component in (self.solver, *self.postprocess):
            settings |= component.model_dump(mode="json")
        return settings | ({"values": dict(self.values)} if self.values else {})

    def value_settings(self, model: ValueSettings) -> ValueSettings:
        """What target values are found with: the ``model``'s settings, and over them this method's own."""
        return model.changed(self.values, f"method {self.name!r}: values")

    @property
    def needs(self) -> frozenset[Need]:
        """What its solver and post-processes read of an unedited layer."""
        return frozenset(need for component in (self.solver, *self.postprocess) for need in component.needs)

    @property
    def search(self) -> dict[str, tuple[Any, ...]]:
        """What a search tries of each setting; of target values', by ``values.KEY``."""
        found: dict[str, tuple[Any, ...]] = {"values.lr": (0.1, 0.5), "values.clamp_norm_factor": (0.75, 1.5, 3.0)}
        found = found if self.reads_targets else {}
        for component in (self.solver, *self.postprocess):
            found |= component.search
        return found

    @property
    def remarks(self) -> list[str]:
        """What its solver and post-processes say of defaults that were taken."""
        said = (component.remark for component in (self.solver, *self.postprocess))
        return [f"{self.name} {remark}" for remark in said if remark]

    @property
    def needs_statistics(self) -> bool:
        """Whether it takes key second moments."""
        return bool(self.needs & {"second_moment", "key_spectrum", "output_moment"})

    @property
    def needs_gradients(self) -> bool:
        """Whether the text's gradients have to be taken with the key second moments."""
        return "output_moment" in self.needs

    @property
    def reads_targets(self) -> bool:
        """Whether its updates are made towards target values."""
        return isinstance(self.solver, ClosedFormSolver)

    def shares_targets(self, model: ValueSettings) -> bool:
        """Whether it reads the target values that a job of their own finds on the unedited model, for all methods."""
        own = self.value_settings(model)
        return model.weights == "pretrained" and self.reads_targets and own.optimised_with() == model.optimised_with()

    @property
    def spectra(self) -> tuple[str, ...]:
        """The decompositions of the unedited model that it reads, by the names of their files (``spectra``)."""
        files: tuple[tuple[Need, str], ...] = (("key_spectrum", "null_space"), ("principal_spectrum", "directions"))
        return tuple(name for need, name in files if need in self.needs)

    def edited_layers(self, layers: Sequence[int], values: ValueSettings) -> tuple[int, ...]:
        """Those of ``layers`` that it edits; ``values`` are the model's settings of target values.

        All, or those that ``values.residual`` leaves; for a solver of a single layer, its own ``layer`` or the last.
        """
        if not layers or list(layers) != sorted(set(layers)):
            raise InputError(f"layers {list(layers)}: give at least one, ascending and without repeats")
        if not self.solver.single_layer:
            return edited_layers(layers, self.value_settings(values))
        chosen = getattr(self.solver, "layer", None)
        return (layers[-1] if chosen is None else chosen,)


def edited_layers(layers: Sequence[int], values: ValueSettings) -> tuple[int, ...]:
    """Those of ``layers`` that are edited towards target values: all, or the first and the last."""
    return tuple(dict.fromkeys((layers[0], layers[-1]))) if values.residual == "ends" else tuple(layers)


def resolve(
    name: str,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
) -> Method:
    """The method called ``name``: a row's name, with ``+postprocess`` and ``@key=value`` added once or more.

    ``hyperparameters`` is flat, ``{"second_moment_weight": 500, "eta": 0.5}``: a key goes to every component
    of the method that has it, over the row's value, over the component's default; what the name itself fixes goes over
    all. ``values`` in it, ``{"values": {"lr": 0.5}}`` or ``{"values.lr": 0.5}``, goes over the model's target values.
    ``rows`` adds to the package's rows or replaces them. Raises InputError, with the nearest valid name, on an
    unknown method, component or hyperparameter, and on a value out of range.
    """
    table = _rows() | _parse(rows or {}, "rows")
    packages: dict[str, str] = {}
    base, fixed = split_name(name)
    suffixes = list[str]()
    while base not in table and base not in names("sphere.methods") and "+" in base:
        base, _, suffix = base.rpartition("+")
        suffixes.insert(0, suffix)
    row = _outside_row(base, packages) or table.get(base)
    if row is None:
        raise InputError(f"unknown method {base!r}{nearest(base, [*table, *names('sphere.methods')])}")
    wanted = [*row.postprocess, *suffixes]
    if len(set(wanted)) < len(wanted):
        raise InputError(f"method {name!r} applies {', '.join(wanted)}: name each post-process once")
    solver = _find("sphere.solvers", SOLVERS, Solver, row.solver, name, packages)
    later = [_find("sphere.postprocesses", POSTPROCESSES, PostProcess, each, name, packages) for each in wanted]
    given = [row.hyperparameters | {VALUES: row.values}, dict(hyperparameters or {}), fixed]
    values = _values(given, name)
    settings: dict[str, Any] = {}
    for each in given:
        plain = {key: value for key, value in each.items() if not _of_values(key)}
        for component in (solver, *later):  # one way of saying a thing takes the place of another, said earlier
            if any(plain.get(key) is not None for key in component.alternatives):
                settings = {key: value for key, value in settings.items() if key not in component.alternatives}
        settings |= plain
    valid = {key for component in (solver, *later) for key in component.model_fields}
    for key in settings:
        if key not in valid:
            raise InputError(f"method {name!r} has no hyperparameter {key!r}{nearest(key, [*valid, VALUES])}")
    built = tuple(_build(each, settings, name) for each in later)
    return Method(name, _build(solver, settings, name), built, values, packages)


def method_names(rows: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[str, ...]:
    """The plain names of all rows, ours, ``rows``' and other packages'; each can be extended by ``+sphere``."""
    known = [*(_rows() | _parse(rows or {}, "rows")), *names("sphere.methods")]
    return tuple(name for name in known if "+" not in name)


@cache
def _rows() -> dict[str, MethodRow]:
    return _parse(read_yaml(ROWS), str(ROWS))


def _parse(rows: Any, where: str) -> dict[str, MethodRow]:
    if not isinstance(rows, Mapping):
        raise InputError(f"{where} holds no methods: write lines of 'name: {{solver: NAME}}'")
    parsed = {}
    for name, row in rows.items():
        if not isinstance(name, str) or "@" in name or not re.fullmatch(METHOD_NAME, name):
            raise InputError(
                f"{where}: method row {name!r}: name it by letters, digits and . _ + -, and put a number in quotes"
            )
        try:
            parsed[name] = MethodRow.model_validate(row)
        except ValidationError as error:
            raise InputError(f"{where}: method row {name!r}: {_first(error)}") from error
    return parsed


def _of_values(key: str) -> bool:
    return key == VALUES or key.startswith(f"{VALUES}.")


def _values(given: Sequence[Mapping[str, Any]], method: str) -> dict[str, Any]:
    """The target values' own settings, as ``values: {lr: 0.5}`` or ``values.lr``, the later over the earlier."""
    found: dict[str, Any] = {}
    for settings in given:
        for key, value in settings.items():
            if key == VALUES:
                if not isinstance(value, Mapping):
                    raise InputError(f"method {method!r}: values: write {{lr: 0.5}} and the like (got {value!r})")
                found |= value
            elif _of_values(key):
                found[key.removeprefix(f"{VALUES}.")] = value
    ValueSettings().changed(found, f"method {method!r}: values")
    return found


def _outside_row(name: str, packages: dict[str, str]) -> MethodRow | None:
    """The row that another package adds as ``name``, which is then noted in ``packages``."""
    found = added("sphere.methods", name, known=_rows())
    if found is None:
        return None
    packages[name] = found.package
    return _parse({name: found.of_kind(Mapping, "a row {solver: NAME, ...}")}, found.where)[name]


def _find(
    group: Group,
    registry: Mapping[str, type[Part]],
    kind: type[Any],
    name: str,
    method: str,
    packages: dict[str, str],
) -> type[Part]:
    """The component called ``name``, ours or another package's, which is then noted in ``packages``."""
    what = kind.__name__
    if (found := added(group, name, known=OWN[group])) is not None:
        component: type[Part] = found.of_kind(kind, f"a {what}: derive a class from sphere's")
        if not isinstance(component, type) or inspect.isabstract(component):
            raise InputError(f"{found.where} is not a whole {what} class: define its abstract methods")
        if getattr(component, "name", None) != name:
            raise InputError(f"{found.where} calls itself {getattr(component, 'name', None)!r}: make the two names one")
        packages[name] = found.package
        return component
    if name not in registry:
        every = [*registry, *names(group)]
        raise InputError(f"method {method!r} names the unknown {GROUPS[group]} {name!r}{nearest(name, every)}")
    return registry[name]


def _build(component: type[Part], settings: Mapping[str, Any], method: str) -> Part:
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
