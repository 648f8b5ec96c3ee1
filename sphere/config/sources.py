"""config/sources.tsv."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os.path import expanduser, isfile  # unlike Path.is_file, False for a name too long for the file system
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sphere.config.base import Count, Settings, validated
from sphere.config.names import DOWNLOAD_FOLDERS, Name
from sphere.errors import InputError, nearest
from sphere.files import read_table

PACKAGE = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
"""The name of a Python package (PEP 508)."""


class Source(Settings):
    """One row of config/sources.tsv: something that is downloaded, or taken from a place of yours."""

    name: Name
    """What studies, and ``sources`` of config.yaml, call it."""
    kind: Literal["file", "wheel", "model", "dataset"]
    """A file by its address, one of a Python package, or a model or dataset of the Hugging Face hub."""
    url: str
    """Address of the file, name of the package, or id on the hub."""
    member: str | None = None
    """Path, in the package's wheel, of the file that is taken, or a pattern: the texts it matches, joined by empty
    lines in the order of their names."""
    subset: Name | None = None
    """The part of a hub dataset, which is also the folder its files are in."""
    revision: str
    """Commit, tag or branch on the hub; version of a package; the year of a file."""
    bytes: Count | None = None
    """Length of the file, of a package what is taken from it; empty where nobody has published it."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Checksum of the file; likewise."""
    licence: str
    """As its publisher states it."""
    note: str | None = None
    """What it replaces, or where the revision and checksum were found."""
    path: Path | None = None
    """The file or folder of yours that is taken instead."""

    @model_validator(mode="after")
    def _fitting(self) -> Source:
        if self.kind == "file" and not self.url.startswith(("https://", "http://")):
            raise ValueError(f"url: {self.url!r} is not an address: begin it with https://")
        if (self.kind == "wheel") != (self.member is not None):
            raise ValueError("member is a wheel's: the file to take, such as package/model.gguf")
        if self.kind == "wheel" and not re.fullmatch(PACKAGE, self.url):
            raise ValueError(f"url: {self.url!r} is no name of a package: write it as pip takes it")
        if not self.is_file and (self.bytes, self.sha256) != (None, None):
            raise ValueError("bytes and sha256 are a file's: a commit as revision pins what the hub has")
        if self.subset is not None and self.kind != "dataset":
            raise ValueError("subset is a dataset's")
        if self.file_name in DOWNLOAD_FOLDERS:
            raise ValueError(f"name: {self.name!r} is the name of a folder of results/downloads: choose another")
        return self

    @property
    def is_file(self) -> bool:
        """Whether it becomes one file, and no folder."""
        return self.kind in ("file", "wheel")

    @property
    def file_name(self) -> str:
        """Its name under results/downloads/: that of its row, and the ending of its address."""
        return self.name + (Path(self.member or self.url).suffix if self.is_file else "")


def load_sources(path: Path, *, places: Mapping[str, str] | None = None) -> dict[str, Source]:
    """The rows of sources.tsv by name, with the ``places`` that replace a download checked to be there."""
    if not isfile(path):
        raise InputError(f"{path} is not there: it lists every download; copy config/sources.tsv of the checkout to it")
    rows = [{key: value for key, value in row.items() if value} for row in read_table(path, delimiter="\t")]
    sources: dict[str, Source] = {}
    for row in rows:
        source = validated(Source, row, f"{path}: {row.get('name', 'a row without name')}")
        if source.name in sources:
            raise InputError(f"{path}: two rows are called {source.name!r}: rename one")
        if twin := next((each.name for each in sources.values() if each.file_name == source.file_name), None):
            raise InputError(f"{path}: {twin!r} and {source.name!r} are both kept as {source.file_name!r}: rename one")
        sources[source.name] = source
    for name, place in (places or {}).items():
        if name not in sources:
            raise InputError(f"config: sources: {name!r} is not a row of {path}{nearest(name, sources)}")
        sources[name] = sources[name].model_copy(update={"path": _place(sources[name], Path(expanduser(place)))})
    return sources


def _place(source: Source, place: Path) -> Path:
    """``place`` if it can stand for the download, or InputError."""
    wanted = {"model": place / "config.json", "dataset": place / "README.md"}.get(source.kind, place)
    if not isfile(wanted):
        what = "" if source.is_file else f" in {place}, the {source.kind}'s folder as the hub has it"
        raise InputError(f"config: sources.{source.name}: {wanted if not what else wanted.name} is not there{what}")
    return place
