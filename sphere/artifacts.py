"""Files that know what made them: atomic writes, digests, and provenance that a consumer checks.

One rule for every artefact, whatever its kind: ``folder/name`` has its provenance in ``folder/provenance/name.json``,

    sha256      digest of the artefact itself (a folder's is over its files' names and contents)
    job         the rule and wildcards of the job that made it, its wall seconds and its machine
    code        version and digest of sphere's sources; libraries: versions of what computes
    settings    everything from the configuration that the making job was given, and settings_sha256 over it
    ancestors   every artefact it was made from, near and far: path (relative to the artefact's folder) -> sha256

``verify`` refuses an artefact that is not the one its provenance describes, or that another version of sphere made;
``lineage`` refuses inputs that were made from different versions of the same ancestor. Both name both sides. No torch
import.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

import sphere
from sphere.errors import FIXES, InputError

LIBRARIES = ("torch", "transformers", "tokenizers", "lm_eval", "numpy", "scipy", "pandas", "matplotlib", "snakemake")
SHORT = 12
"""Hex digits of a digest that a message shows."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks answer, such as Lustre mounted without flock."""


class StaleArtifact(InputError):  # noqa: N818 (a state of a file, not a failure)
    """An artefact is not the one its provenance, or another artefact's, speaks of."""


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in ``path``'s folder; it becomes ``path`` if the block succeeds, else it goes.

    A reader sees the old file or the whole new one, never half of it. The folder is made if need be.
    """
    path = Path(path)
    with _temporary(path) as temporary:
        yield temporary
        _to_disk(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)


@contextmanager
def write_folder_atomically(path: str | Path) -> Iterator[Path]:
    """``write_atomically`` for a folder: yield an empty one, which takes the place of ``path`` when it is full.

    The old one is there until the new one is on the disk: it is moved aside, and goes last.
    """
    path = Path(path)
    with _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _to_disk(file)
        temporary.chmod(0o777 & ~_umask())
        if os.path.lexists(path):
            os.replace(path, temporary.with_name(f"{path.name}.old"))
        os.replace(temporary, path)


def _to_disk(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A path of ``path``'s name in a new hidden folder beside it, which is gone at the end.

    What killed writers of ``path`` left is removed first. A writer holds a lock on its own folder as long as it lives,
    so that of one still at work stays. (A lock on the file itself would be lost by savers that make the file anew.)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        _remove_if_abandoned(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another writer's sweep came between making and locking it, as below
            continue
        with suppress(OSError):  # a file system without locks: then nobody removes what others left
            fcntl.flock(handle, fcntl.LOCK_EX)
        if folder.exists():
            break
        os.close(handle)
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what cannot be removed now is by the next writer
        os.close(handle)


def _remove_if_abandoned(folder: Path) -> None:
    with suppress(OSError):  # locked by its writer, or removed by another process
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(handle)


def occupy(folder: str | Path) -> None:
    """Keep ``folder`` to this process until it ends, however it ends; InputError if another one has it."""
    path = Path(folder) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _open_lock(path)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # never closed: the end of the process lets go of it
        if os.access(path, os.W_OK):
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    except BlockingIOError:
        raise InputError(
            f"{folder} is being made by another workflow ({path.read_text(encoding='utf-8')}): "
            "wait for its end, or give other results with --config results=FOLDER"
        ) from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            print(
                f"warning: {folder} is on a file system without locks ({error.strerror}): see to it yourself that no "
                "other workflow writes there",
                file=sys.stderr,
            )
            return
        fix = f"{FIXES[error.errno]}, or " if error.errno in FIXES else ""
        raise InputError(
            f"{folder} cannot be written ({error.strerror}): {fix}give other results with --config results=FOLDER"
        ) from None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep ``path``, there or not, to the block among all that ask for it so: waits for another process that has it.

    On a file system without locks nobody waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _open_lock(path.with_name(f".{path.name}.lock"))
    try:
        with suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{path}: waiting for another process, which is making it", flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    """A descriptor of the lock file ``path``, which whoever may write its folder may lock, whatever the umask."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not os.access(path.parent, os.W_OK):
            raise
        return os.open(path, os.O_RDONLY)  # another user's, which is enough for a lock
    with suppress(OSError):  # not its owner
        os.fchmod(handle, path.parent.stat().st_mode & 0o666)
    return handle


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(value: Any, path: str | Path) -> None:
    """Write ``value`` as indented JSON, key order kept; NaN and infinity are refused."""
    with write_atomically(path) as temporary:
        text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; InputError in one line if it is not there or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error.msg}, line {error.lineno})") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, brackets without end
        raise InputError(f"{path} is not JSON ({error})") from None


def write_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """Write ``frame`` without its index; floats in the shortest form that reads back to the same number."""
    with write_atomically(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def digest(path: str | Path) -> str:
    """sha256 of a file's content, or of a folder's relative file names and contents, hidden files aside."""
    path = Path(path)
    if path.is_dir():
        names = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
        shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        return config_digest([[str(name), digest(path / name)] for name in shown])
    if not path.exists():
        raise InputError(f"{path} is not there")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_digest(value: Any) -> str:
    """sha256 of ``value`` as canonical JSON: key order and the kind of sequence make no difference."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sidecar(path: str | Path) -> Path:
    """Where the provenance of ``path`` lies."""
    path = Path(path)
    return path.parent / "provenance" / f"{path.name}.json"


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
            "sha256": digest(path),
            "job": dict(job),
            "code": {"version": sphere.__version__, "sources": sources_digest()},
            "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
            "settings": dict(settings),
            "settings_sha256": config_digest(settings),
            "ancestors": dict(sorted(near.items())),
        },
        sidecar(path),
    )


@cache
def sources_digest() -> str:
    """sha256 of this package's own Python and YAML files: tells two states of the code apart, committed or not."""
    root = Path(__file__).parent
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
    found = digest(path)
    if recorded["sha256"] != found:
        raise StaleArtifact(
            f"{path} is {found[:SHORT]} but its provenance describes {recorded['sha256'][:SHORT]}: "
            "it was changed after it was made; delete it and make it again"
        )
    return recorded


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
