"""Files that know what made them: provenance that a consumer checks.

One rule for every artefact, whatever its kind: ``folder/name`` has its provenance in ``folder/provenance/name.json``,

    sha256      digest of the artefact itself (a folder's is over its files' names and contents)
    job         the rule and wildcards of the job that made it, its wall and CPU seconds and its machine
    code        version and digest of sphere's sources; libraries: versions of what computes
    settings    everything from the configuration that the making job was given, and settings_sha256 over it
    ancestors   every artefact it was made from, near and far: path (relative to the artefact's folder) -> sha256

A large file is read once a change, not once a job: whoever read it notes its digest with its size, times and inode in
``folder/provenance/.name.read``, and as long as the file system says the same of it the digest is taken from there
(docs/reliability.md says what that cannot see). Anything else, a copy or a touched file too, is read again.

``verify`` refuses an artefact that is not the one its provenance describes, or that another version of sphere made;
``lineage`` refuses inputs that were made from different versions of the same ancestor. Both name both sides. No torch
import.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import sphere
from sphere.errors import InputError
from sphere.files import SHORT, config_digest, content_digest, digest, read_json, write_json
from sphere.plugins import packages

LIBRARIES = ("torch", "transformers", "tokenizers", "lm_eval", "numpy", "scipy", "pandas", "matplotlib", "snakemake")


LARGE = 2**24
"""Bytes from which on a file's digest is noted; reading less takes no time."""
COARSE = 2.0
"""Seconds within which a file system may take two changes for one: a file as young as that is read again."""


class StaleArtifact(InputError):  # noqa: N818 (a state of a file, not a failure)
    """An artefact is not the one its provenance, or another artefact's, speaks of."""


def sidecar(path: str | Path) -> Path:
    """Where the provenance of ``path`` lies."""
    path = Path(path)
    return path.parent / "provenance" / f"{path.name}.json"


def noted_digest(path: str | Path) -> str:
    """``digest`` of an artefact, which reads those of its large files alone that changed since it was last taken."""
    notes = sidecar(path).with_name(f".{Path(path).name}.read")
    try:
        found = read_json(notes)
    except InputError:  # none yet, or a broken one
        found = {}
    known: dict[str, str] = found if isinstance(found, dict) else {}
    kept: dict[str, str] = {}

    def of_file(file: BinaryIO) -> str:
        before = os.fstat(file.fileno())
        if before.st_size < LARGE:
            return content_digest(file)
        stamp = _stamp(before)
        sha = known.get(stamp) or content_digest(file)
        if _stamp(os.fstat(file.fileno())) == stamp and time.time() - before.st_ctime >= COARSE:
            kept[stamp] = sha
        return sha

    sha = digest(path, of_file)
    if kept.keys() - known.keys():
        with suppress(OSError):  # not ours to write, or a full disk: the next one reads the file again
            write_json(kept, notes)
    return sha


def _stamp(stat: os.stat_result) -> str:
    """What a file system says of a file and does not say again once its content has changed."""
    return f"{stat.st_size} bytes, modified {stat.st_mtime_ns}, changed {stat.st_ctime_ns}, inode {stat.st_ino}"


def provenance(path: str | Path) -> dict[str, Any]:
    """The recorded provenance of an artefact; StaleArtifact if it has none, or a broken one."""
    again = "delete the file and make it again"
    if not sidecar(path).exists():
        raise StaleArtifact(f"{path} has no provenance ({sidecar(path)}): {again}")
    try:
        found = read_json(sidecar(path))
    except InputError as error:
        raise StaleArtifact(f"{path} has a broken provenance: {error}: {again}") from None
    parts = {"sha256": str, "settings": dict, "ancestors": dict, "code": dict}
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in parts.items()):
        raise StaleArtifact(f"{path} has a broken provenance ({sidecar(path)} lacks {', '.join(parts)}): {again}")
    return found


def record(
    path: str | Path, *, job: Mapping[str, Any], settings: Mapping[str, Any], ancestors: Mapping[Path, str]
) -> None:
    """Write the provenance of the finished artefact ``path``.

    ``job`` says what ran, ``ancestors`` maps absolute paths to digests, as ``lineage`` returns them.
    """
    path = Path(path)
    here = path.resolve().parent
    near = {os.path.relpath(ancestor, here): sha for ancestor, sha in ancestors.items()}
    write_json(
        {
            "sha256": noted_digest(path),
            "job": dict(job),
            "code": {"version": sphere.__version__, "sources": sources_digest()},
            "libraries": {name: found for name in LIBRARIES if (found := _version(name))} | packages(),
            "settings": dict(settings),
            "settings_sha256": config_digest(settings),
            "ancestors": dict(sorted(near.items())),
        },
        sidecar(path),
    )


@cache
def sources_digest() -> str:
    """sha256 of this package's own Python and YAML files: tells two states of the code apart, committed or not."""
    root = Path(sphere.__file__).parent
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml"))
    return config_digest([[str(path.relative_to(root)), digest(path)] for path in files])


def machine() -> dict[str, Any]:
    """What this process runs on: system, processor, its cores, memory in GiB, and the GPU of a loaded torch."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def verify(path: str | Path) -> dict[str, Any]:
    """The provenance of ``path``, having made sure that ``path`` is what it describes and of this version of sphere.

    StaleArtifact if not.
    """
    recorded = provenance(path)
    version = recorded["code"].get("version")
    if version != sphere.__version__:
        raise StaleArtifact(
            f"{path} was made by sphere {version}, this is {sphere.__version__}: delete it and make it again, or go on "
            f"with {version}"
        )
    found = noted_digest(path)
    if recorded["sha256"] != found:
        raise StaleArtifact(
            f"{path} is {found[:SHORT]} but its provenance describes {recorded['sha256'][:SHORT]}: "
            "it was changed after it was made; delete it and make it again"
        )
    return recorded


def made_from(path: str | Path, settings: Mapping[str, Any], ancestors: Mapping[Path, str]) -> bool:
    """Whether ``path`` was made by this code, with these settings and from these ancestors; errors as of ``verify``."""
    recorded, here = verify(path), Path(path).resolve().parent
    near = {Path(os.path.normpath(here / relative)): sha for relative, sha in recorded["ancestors"].items()}
    same_code = recorded["code"].get("sources") == sources_digest()
    return same_code and recorded["settings_sha256"] == config_digest(settings) and near == dict(ancestors)


def lineage(artefacts: Iterable[str | Path], *, sources: Iterable[str | Path] = ()) -> dict[Path, str]:
    """Every artefact that these were made from, themselves included: absolute path -> sha256.

    ``artefacts`` are verified against their provenance; ``sources`` are a user's own files, which have none.
    StaleArtifact where two artefacts disagree on a common ancestor.
    """
    known: dict[Path, str] = {}
    witness: dict[Path, str] = {}

    def learn(path: Path, sha: str, source: str) -> None:
        if known.setdefault(path, sha) != sha:
            raise StaleArtifact(
                f"{source} was made with {path.name} {sha[:SHORT]}, but {witness[path]} with {known[path][:SHORT]}: "
                f"delete the older of the two and make it again ({path})"
            )
        witness.setdefault(path, source)

    for source in map(Path, sources):
        learn(source.resolve(), digest(source), f"this job ({source})")
    for artefact in map(Path, artefacts):
        recorded = verify(artefact)
        learn(artefact.resolve(), recorded["sha256"], f"this job ({artefact})")
        for relative, sha in recorded["ancestors"].items():
            learn(Path(os.path.normpath(artefact.resolve().parent / relative)), sha, str(artefact))
    return known


def same_settings(path: str | Path, settings: Mapping[str, Any]) -> None:
    """Refuse to continue ``path`` under other settings than it was made with; names the first that differs."""
    recorded = provenance(path)["settings"]
    for key in sorted(recorded.keys() | settings.keys()):
        if config_digest(recorded.get(key)) != config_digest(settings.get(key)):
            raise StaleArtifact(
                f"{path} was made with {key} = {recorded.get(key)!r}, this job has {settings.get(key)!r}: "
                "restore the setting, or delete the file and make it again"
            )
