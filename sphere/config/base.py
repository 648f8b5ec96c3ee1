"""What all settings share: they are frozen, and every mistake in them is one line that names the file and the key."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sphere.errors import InputError, nearest
from sphere.plain_yaml import read_yaml

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is answered with the nearest valid one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}{nearest(str(key), cls.model_fields)}")
        return data

    def plain(self) -> dict[str, Any]:
        """The settings as JSON-able values, as they travel through Snakemake's ``params``."""
        return self.model_dump(mode="json")


Model = TypeVar("Model", bound=Settings)
_SHORTLY = reprlib.Repr()


def read_settings(kind: type[Model], path: Path) -> Model:
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no settings: see config/README.md")
    return validated(kind, data, str(path))


def validated(kind: type[Model], data: Any, where: str) -> Model:
    """``data`` as settings; pydantic's first complaint becomes one line."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        given = "" if problem["type"] in ("value_error", "missing") else f" (got {_SHORTLY.repr(problem['input'])})"
        raise InputError(f"{where}: {f'{key}: ' if key else ''}{text[0].lower()}{text[1:]}{given}") from None
