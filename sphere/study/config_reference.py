"""Write what follows from sphere.config: workflow/schemas/*.json and the tables of config/README.md.

python -m sphere.study.config_reference
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sphere.config.model import ModelConfig
from sphere.config.run import RunSettings
from sphere.config.study import StudyConfig
from sphere.config.tasks import TaskFile

FILES: dict[str, type[BaseModel]] = {
    "study": StudyConfig,
    "model": ModelConfig,
    "task": TaskFile,
    "config": RunSettings,
}
HEADS: dict[str, type[BaseModel]] = {
    "studies/NAME.yaml": StudyConfig,
    "models/NAME.yaml": ModelConfig,
    "config.yaml": RunSettings,
}
MARK = "<!-- {} of the tables that `python -m sphere.study.config_reference` writes -->"


def schemas() -> dict[str, str]:
    """File name -> JSON Schema of one kind of configuration file."""
    return {
        f"{name}.schema.json": json.dumps(kind.model_json_schema(), indent=1, ensure_ascii=False) + "\n"
        for name, kind in FILES.items()
    }


def tables() -> str:
    """Markdown: every key of every kind of file, with its default and meaning."""
    parts = []
    for head, kind in HEADS.items():
        schema = kind.model_json_schema()
        parts.append(f"## {head}\n\n| key | default | meaning |\n| --- | --- | --- |")
        parts[-1] += "".join(f"\n| `{key}` | {default} | {text} |" for key, default, text in _rows(schema, schema, ""))
    return "\n\n".join(parts) + "\n"


def _rows(node: dict[str, Any], root: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    """(key with dots, default, meaning) of each property, those of nested settings behind their parent."""
    for name, field in node.get("properties", {}).items():
        default = "required" if name in node.get("required", []) else f"`{json.dumps(field.get('default'))}`"
        inner = list(_settings(field, root))
        if inner and default.startswith("`{"):
            default = ""
        text = " ".join(field.get("description", "").split())
        if choices := [each for place in (field, *field.get("anyOf", [])) for each in place.get("enum", [])]:
            text += f" One of {', '.join(f'`{each}`' for each in choices)}."
        key = f"{name}: {field['const']}" if "const" in field else name
        yield prefix + key, default, text.replace("|", "\\|").replace("``", "`")
        keyed = f"{prefix}{name}.NAME." if field.get("type") == "object" else f"{prefix}{name}."
        for settings in inner:
            yield from _rows(settings, root, keyed)


def _settings(field: dict[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nested settings that a property can hold."""
    places = [field, *field.get("patternProperties", {}).values(), *field.get("anyOf", []), *field.get("oneOf", [])]
    for place in places:
        if "$ref" in place:
            yield root["$defs"][place["$ref"].rsplit("/", 1)[1]]


def readme(text: str) -> str:
    """The README's ``text`` with its tables brought up to date."""
    begin, end = MARK.format("begin"), MARK.format("end")
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n\n{tables()}\n{end}{tail}"


def main() -> None:
    """Write the schemas and the README's tables into the repository that this file lies in."""
    root = Path(__file__).resolve().parents[2]
    for name, text in schemas().items():
        (root / "workflow" / "schemas" / name).write_text(text, encoding="utf-8")
    path = root / "config" / "README.md"
    path.write_text(readme(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
