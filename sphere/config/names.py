"""What may be called how: names of files and folders, and the grammar of a method's name."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field

from sphere.errors import InputError
from sphere.plain_yaml import parse_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=100)]
"""A name that is also a folder's."""
METHOD_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+=@-]*$"
LONGEST_NAME = 100
"""A method's name is also a folder's."""
MethodName = Annotated[str, Field(pattern=METHOD_NAME, max_length=LONGEST_NAME)]
PRE_EDITED, IN_CONTEXT = "pre-edited", "in-context"
"""What stands in a method's place where no method edited: the unedited model, and the one that is told each fact."""
MODEL_FOLDERS = (
    *("world", "facts", "corpus", "streams", "tables", "figures", "claims", "logs", "benchmarks", "provenance"),
)
"""Folders of results/STUDY beside those of its models."""
DOWNLOAD_FOLDERS = ("logs", "benchmarks", "provenance")
"""Folders of results/downloads beside those of datasets."""
DATASET_FOLDERS = ("model", "targets", "locate", "tuning", "sensitivity", PRE_EDITED, "provenance")
"""Folders of results/STUDY/MODEL beside those of its datasets."""
METHOD_FOLDERS = (PRE_EDITED, IN_CONTEXT)
"""Folders of results/STUDY/MODEL/DATASET beside those of its methods."""
FILE_ENDINGS = (".json", ".csv", ".safetensors", ".txt", ".html")
"""Endings of the files beside those folders."""
UNFINISHED = "unfinished"
"""Folder of a stream in which a job that does several things keeps what it has finished until its end."""
STREAM = ("model", "dataset", "method", "seed", "edits")
"""What tells one evaluated state of a study from the others: the first columns of every table of results."""


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """``sphere@eta=0.3@alpha=0.7`` -> ``("sphere", {"eta": 0.3, "alpha": 0.7})``.

    Raises InputError on a name that cannot be a folder's, and on a part that is no KEY=VALUE or comes twice.
    """
    if len(name) > LONGEST_NAME or not re.fullmatch(METHOD_NAME, name):
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
