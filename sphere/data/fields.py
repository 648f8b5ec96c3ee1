"""Files of records and their fields, read with one line that says what is wrong; a question as records keep it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sphere.errors import InputError

Record = dict[str, Any]


class Unusable(Exception):  # noqa: N818 (a record to skip, not a failure)
    """Why a record of the right schema cannot be edited."""


def read_records(path: str | Path) -> list[Record]:
    """The records of a file as they stand; InputError unless it is a JSON list of objects."""
    return records_in(read_json(path), path)


def read_json(path: str | Path) -> Any:
    """A JSON file, of which no value is dropped or infinite; InputError for every way it can fail to be one."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    if not text.strip():
        raise InputError(f"{path} is empty: it must hold a JSON list of records")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON (line {error.lineno}: {error.msg}): check it there") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise InputError(f"{path} is not JSON ({error}): check it") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values under one key, the first would be silently ignored."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise InputError(f"an object has the key {twice!r} twice: drop one")
    return found


def _finite(text: str) -> float:
    """A number; NaN and Infinity are none of JSON's, and 1e999 would become one."""
    number = float(text)
    if not math.isfinite(number):
        raise InputError(f"{text} is not a finite number: write null or leave its key out")
    return number


def records_in(content: Any, path: str | Path) -> list[Record]:
    """``content`` if it is a list of JSON objects; InputError for every way it can fail to be one."""
    if not isinstance(content, list):
        raise InputError(f"{path} holds a JSON {type(content).__name__}: put its records in a list [...]")
    if not content:
        raise InputError(f"{path} is an empty list: give at least one record")
    for i, record in enumerate(content):
        if not isinstance(record, dict):
            raise InputError(f"{path}: record {i} is a JSON {type(record).__name__}: every record must be an object")
    return content


def checked(value: Any, name: str, where: str) -> str:
    """``value`` if it is text; InputError if it is not, Unusable if it is empty."""
    if not isinstance(value, str):
        raise InputError(f"{where}: {name} is {type(value).__name__}, not text: quote it")
    if not value.strip():
        raise Unusable(f"its {name} is empty")
    return value


def text_of(holder: Record, key: str, where: str, *, strip: bool = True) -> str:
    """The text under ``key``, which must be there."""
    if key not in holder:
        raise InputError(f'{where}: no "{key}": add it')
    text = checked(holder[key], f'"{key}"', where)
    return text.strip() if strip else text


def texts_of(holder: Record, key: str, where: str) -> tuple[str, ...]:
    """A list of texts, which may be missing; trailing space goes, since a target brings its own."""
    return tuple(checked(value, f'"{key}"', where).rstrip() for value in _list(holder, key, where))


def names_of(holder: Record, key: str, where: str) -> tuple[str, ...]:
    """Other names of an object, without space around them; they may be missing, and blank ones go."""
    values = [value for value in _list(holder, key, where) if not isinstance(value, str) or value.strip()]
    return tuple(checked(value, f'"{key}"', where).strip() for value in values)


def objects_of(holder: Record, key: str, where: str) -> list[Record]:
    """A list of objects, which may be missing."""
    values = holder.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError(f'{where}: "{key}" must be a list of objects: write it as [{{...}}, ...]')
    return values


def object_of(holder: Record, key: str, where: str) -> Record:
    """The object under ``key``."""
    value = holder[key]
    if not isinstance(value, dict):
        raise InputError(f'{where}: "{key}" is {type(value).__name__}, not an object: write it as {{...}}')
    return value


def question(kind: str, prompt: str, names: Sequence[str]) -> Record:
    """A question behind an edit; of ``names`` the first is its answer, and the others count too."""
    answer, *aliases = names
    return {"kind": kind, "prompt": prompt, "target": answer} | ({"aliases": aliases} if aliases else {})


def _list(holder: Record, key: str, where: str) -> list[Any]:
    values = holder.get(key, [])
    if not isinstance(values, list):
        raise InputError(f'{where}: "{key}" is {type(values).__name__}, not a list: put it in [...]')
    return values
