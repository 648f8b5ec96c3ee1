"""YAML as plain values: the one reader of every YAML text. No torch import."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import yaml

from sphere.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML of plain values in which no key of a mapping stands twice: the first of two would be silently ignored."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value; what is none of its kind (``!!bool maybe``, 2001-99-99) is an error that names its place."""
        try:
            if isinstance(node, yaml.ScalarNode):
                node.value.encode()  # half of a surrogate pair is no text
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
            problem = f"{reprlib.repr(node.value)} is no {node.tag.rsplit(':', 1)[-1]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text; InputError in one line, which names ``where`` it stands, if it is none."""
    try:
        return _Loader(text).get_single_data()
    except RecursionError:
        raise InputError(f"{where} is not YAML: its brackets nest too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an escape beyond Unicode
        raise InputError(f"{where} is not YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; InputError in one line if it cannot be read, or is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:  # not UTF-8, or a name that cannot be a file's
        raise InputError(f"{path} is not YAML: {error}") from None
    return parse_yaml(text, str(path))
