"""Files written whole or not at all, digests, locks, and CSV and JSON as this project writes them. No torch import."""

from __future__ import annotations

import csv
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from sphere.errors import FIXES, InputError

SHORT = 12
"""Hex digits of a digest that a message shows."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks answer, such as Lustre mounted without flock."""


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


def write_text(text: str, path: str | Path) -> None:
    """Write ``text`` in UTF-8."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value: Any, path: str | Path) -> None:
    """Write ``value`` as indented JSON, key order kept; NaN and infinity are refused."""
    write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", path)


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


def digest(path: str | Path, of_file: Callable[[BinaryIO], str] | None = None) -> str:
    """sha256 of a file's content, or of a folder's relative file names and contents, hidden files aside.

    ``of_file`` says it of an open file, for who knows it without reading.
    """
    path = Path(path)
    if path.is_dir():
        names = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
        shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        return config_digest([[str(name), digest(path / name, of_file)] for name in shown])
    if not path.exists():
        raise InputError(f"{path} is not there")
    with path.open("rb") as file:
        return (of_file or content_digest)(file)


def content_digest(file: BinaryIO) -> str:
    """sha256 of an open file, from where it stands."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def config_digest(value: Any) -> str:
    """sha256 of ``value`` as canonical JSON: key order and the kind of sequence make no difference."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_table(path: Path, *, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a table with a header; InputError in one line if it cannot be read, or a cell is in no column."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = list(csv.reader(file, delimiter=delimiter, strict=True)) or [[]]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a table in UTF-8 ({error})") from None
    for column in header:
        if header.count(column) > 1:
            raise InputError(f"{path}: column {column!r} stands twice")
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise InputError(f"{path}: row {number} has {len(line)} cells, the header {len(header)}")
    return [dict(zip(header, line, strict=True)) for line in lines]
