"""Downloads, the one module that uses a network: rows of config/sources.tsv, by address or from the Hugging Face hub.

What is not pinned by the row itself (the checksum of a file nobody has published one of, the commit behind a branch) is
recorded when it is first downloaded, in ``config/sources.lock/NAME.json``, and is what every later download must bring.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from sphere.config.sources import Source
from sphere.data.messages import line, no_room, public
from sphere.data.wheels import from_wheel, is_wheel
from sphere.errors import InputError
from sphere.files import SHORT, alone, digest, read_json, write_folder_atomically, write_json

ATTEMPTS = 6
"""Tries of a download that breaks off, or whose server is overloaded."""
PAUSE = 2.0
"""Seconds before the second try; doubled before each further one."""
TIMEOUT = 60.0
"""Seconds without an answer, or without a further byte of it, after which a try is given up."""
BLOCK = 1 << 16
"""Bytes written at once, and the most that a broken connection loses."""
WANTED = {
    "model": ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"),
    "dataset": ("README.md", "*.parquet", "*.json", "*.jsonl"),
}
"""Files of a hub repository that are taken; of a dataset with a subset, those in its folder, and the README."""


class _Interrupted(Exception):  # noqa: N818 (not an error yet: another try may go through)
    """A try that failed in a way the next one may not."""


def fetch(source: Source, out: Path, locks: Path) -> None:
    """Put the file of ``source`` at ``out``: downloaded, or a link to the file of yours that takes its place.

    A broken-off download is taken up where it ended, by this call or a later one; what another process brings in the
    meantime is waited for, and taken if it is the file on record. InputError, in one line, if it cannot be had, if
    there is no room for it, or if it is not the file on record.
    """
    with alone(out):
        if source.path is not None and not is_wheel(source, source.path):
            _check(source, source.path, locks)
            _link(source.path, out)
            return
        found = _there(source, out, locks) or _downloaded(source, out, locks)
    print(f"{out}: {found['bytes']} bytes, sha256 {found['sha256']}")


def _there(source: Source, out: Path, locks: Path) -> dict[str, Any] | None:
    """What is at ``out``, if it is on record and is that."""
    lock = _locked(source, locks)  # InputError before the download, if it speaks of another address
    if out.is_file() and (source.sha256 or lock):
        with suppress(InputError):
            return _check(source, out, locks)
    return None


def _downloaded(source: Source, out: Path, locks: Path) -> dict[str, Any]:
    transfer = from_wheel if source.kind == "wheel" else _transfer
    part = _patiently(lambda: transfer(source, out), public(source.url))
    try:
        found = _check(source, part, locks)
    except InputError:
        part.unlink()
        raise
    os.replace(part, out)
    if source.sha256 is None:
        _keep(source, found, locks)
    return found


def fetch_snapshot(source: Source, out: Path, locks: Path, *, code: bool = False) -> None:
    """Put the model or dataset of ``source`` into the folder ``out``: links to the hub's cache or a folder of yours.

    The cache (HF_HOME) keeps one copy for all studies, takes up what broke off, and serves without a network under
    HF_HUB_OFFLINE=1. The token for gated models comes from the environment (HF_TOKEN) and is never printed. With
    ``code``, the Python of a model folder of yours is linked, too.
    """
    lock = {} if source.path else _locked(source, locks)
    commit = lock.get("commit", source.revision)
    folder, patterns = source.path or _snapshot(source, commit), _patterns(source, code)
    where = str(source.path or f"{source.url} at {commit}")
    files = [name for name in _files(folder) if any(fnmatch(str(name), pattern) for pattern in patterns)]
    if not files:
        raise InputError(f"{where} has no {', '.join(patterns)}: check its id, revision and subset")
    if source.kind == "model" and not any(name.suffix == ".safetensors" for name in files):
        raise InputError(
            f"{where} has no safetensors: save_pretrained it into a folder with transformers, and name that under "
            f"sources in config.yaml ({source.name}: FOLDER)"
        )
    if source.path is None:
        _check_snapshot(source, folder, files, locks)
    wanted = {name: (folder / name).resolve() for name in files}
    with alone(out):
        if {name: (out / name).resolve() for name in _files(out)} != wanted:
            with write_folder_atomically(out) as made:
                for name, target in wanted.items():
                    _link(target, made / name)
    print(f"{out}: {len(files)} files of {where}" + ("" if source.path else f" ({folder.name})"))


# ----------------------------------------------------------------------------------------------------- transfers


def _patiently(attempt: Callable[[], Path], what: str) -> Path:
    """The result of ``attempt``, repeated with growing pauses while it is only interrupted."""
    tries = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=PAUSE),
        retry=retry_if_exception_type(_Interrupted),
        before_sleep=lambda state: print(f"{what}: {state.outcome and state.outcome.exception()}; trying again"),
        reraise=True,
    )
    try:
        return tries(attempt)
    except _Interrupted as error:
        raise InputError(
            f"{what} cannot be downloaded ({error}, {ATTEMPTS} times): run again later, or name a copy of yours under "
            "sources in config.yaml"
        ) from None


def _transfer(source: Source, out: Path) -> Path:
    """One try at downloading ``source`` into a hidden file beside ``out``, continuing what an earlier try left there.

    The hidden file's name holds a digest of the server's validator (ETag, else date), so that two versions of a file
    are never spliced.
    """
    shown = public(source.url)
    part = next(iter(sorted(out.parent.glob(f".{out.name}.*.part"))), None)
    begin = part.stat().st_size if part else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={begin}-"} if begin else {})}
    try:
        with requests.get(source.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            status = f"{response.status_code} {response.reason}"
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise _Interrupted(status)
            if response.status_code == 416 and part:
                part.unlink()
                raise _Interrupted("the server has no more of it than is here already")
            if response.status_code >= 400:
                raise InputError(f"{shown} cannot be downloaded ({status}): check its row of sources.tsv")
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            target = out.parent / f".{out.name}.{hashlib.sha256(validator.encode()).hexdigest()[:SHORT]}.part"
            told, total = _extent(response)
            if part and (told != begin or target != part or not validator):
                part.unlink()
            if told and not (part and part.is_file()):
                raise _Interrupted("the server has another version, or another piece, than goes on what is here")
            begin, pinned = told, (source.bytes, source.sha256) != (None, None)
            if total is None and not pinned and "Transfer-Encoding" not in response.headers:
                raise InputError(
                    f"{shown}: neither its server nor its row of sources.tsv says how long it is: download it yourself "
                    f"and name it under sources in config.yaml ({source.name}: FILE)"
                )
            if total is not None and total - begin > shutil.disk_usage(out.parent).free:
                raise no_room(out, total - begin)
            with target.open("ab" if begin else "wb") as file:
                for block in response.iter_content(BLOCK):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _Interrupted(line(error)) from None
    except requests.RequestException as error:
        raise InputError(f"{shown} cannot be downloaded ({line(error)}): check its row of sources.tsv") from None
    except OSError as error:
        raise no_room(out, None) if error.errno == errno.ENOSPC else error from None
    size = target.stat().st_size
    if total is not None and size != total:
        if size > total:
            target.unlink()
        raise _Interrupted(f"it ended after {size} of {total} bytes")
    return target


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Where in the file an answer begins, -1 if it keeps that to itself, and the length of the whole file or None."""
    if response.status_code == 206:
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return (int(told[1]), int(told[2])) if told else (-1, None)
    length = response.headers.get("Content-Length", "")
    compressed = "Content-Encoding" in response.headers  # the length is not the file's then
    return 0, int(length) if length.isdecimal() and not compressed else None


def _snapshot(source: Source, commit: str) -> Path:
    """Bring ``commit`` into the hub's cache, where its folder is called by its hash; the client retries and resumes."""
    from huggingface_hub import constants, get_token, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    patterns = list(_patterns(source))
    try:
        return Path(snapshot_download(source.url, repo_type=source.kind, revision=commit, allow_patterns=patterns))
    except Exception as error:  # the client's own errors, its HTTP library's, and those of the disk
        reason, fix = line(error).replace(get_token() or "\0", "(token)"), "run again: it goes on where it stopped"
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            fix = "make room, or set HF_HOME to a folder on a larger disk"
        elif isinstance(error, GatedRepoError):
            fix = f"accept its licence at https://huggingface.co/{source.url} and set HF_TOKEN to a token of yours"
        elif isinstance(error, RepositoryNotFoundError):
            fix = "check its id in sources.tsv, and HF_TOKEN if it is private"
        elif isinstance(error, RevisionNotFoundError):
            fix = "check its revision in sources.tsv"
        elif constants.is_offline_mode():
            fix = "fetch it once without HF_HUB_OFFLINE, or name a copy of yours under sources in config.yaml"
        raise InputError(f"{source.url} at {commit} cannot be downloaded ({reason}): {fix}") from None


def _patterns(source: Source, code: bool = False) -> tuple[str, ...]:
    if source.kind == "dataset" and source.path is not None:
        return ("*",)
    if code and source.path is not None:
        return (*WANTED["model"], "*.py")
    return WANTED[source.kind] if source.subset is None else ("README.md", f"{source.subset}/*")


# ------------------------------------------------------------------------------------------ what was downloaded


def _identity(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def _check(source: Source, file: Path, locks: Path) -> dict[str, Any]:
    """Length and checksum of ``file``; InputError if they are not those of the row, or of an earlier download."""
    found, lock = _identity(file), _locked(source, locks)
    for key, unit in (("bytes", "bytes"), ("sha256", "as sha256")):
        for wanted, where in ((getattr(source, key), "sources.tsv"), (lock.get(key), _lock_file(source, locks))):
            if wanted is not None and wanted != found[key]:
                raise InputError(
                    f"{source.path or public(source.url)} has {found[key]} {unit}, {where} has {wanted} for "
                    f"{source.name!r}: it was changed or cut off; one that is meant to differ goes into the study with "
                    "source: path (a dataset) or corpus.path (a text)"
                )
    return found


def _check_snapshot(source: Source, folder: Path, files: list[Path], locks: Path) -> None:
    """Refuse a snapshot with another file than the hub has or than was first downloaded; record a first one."""
    found: dict[str, Any] = {"commit": folder.name, "files": {str(name): _identity(folder / name) for name in files}}
    for name in files:  # the hub's cache calls a large file by its sha256
        blob, sha256 = (folder / name).resolve().name, found["files"][str(name)]["sha256"]
        if re.fullmatch("[0-9a-f]{64}", blob) and blob != sha256:
            raise InputError(f"{folder / name} has sha256 {sha256}, the hub {blob}: delete it and fetch it again")
    lock = _locked(source, locks)
    if not lock:
        _keep(source, found, locks)
        return
    for path in sorted(found["files"].keys() | lock["files"].keys()):
        now, then = (each["files"].get(path, {}).get("sha256", "no such file") for each in (found, lock))
        if now != then:
            raise InputError(f"{source.url}: {path} is {now}, {_lock_file(source, locks)} has {then}: one was changed")


def _lock_file(source: Source, locks: Path) -> Path:
    return locks / f"{source.name}.json"


def _locked(source: Source, locks: Path) -> dict[str, Any]:
    """What the first download of ``source`` brought, or nothing if there was none."""
    path = _lock_file(source, locks)
    if not path.is_file():
        return {}
    try:
        lock = _as_recorded(source, read_json(path))
    except InputError as error:
        raise InputError(f"{path} records no download ({error}): delete it to record the download again") from None
    for key in ("url", "revision"):
        if lock[key] != getattr(source, key):
            then, now = public(lock[key]), public(getattr(source, key))
            raise InputError(f"{path} is of {key} {then}, sources.tsv has {now}: delete it to take the new one")
    return lock


def _as_recorded(source: Source, lock: Any) -> dict[str, Any]:
    kinds: dict[str, type] = {"url": str, "revision": str}
    kinds |= {"bytes": int, "sha256": str} if source.is_file else {"commit": str, "files": dict}
    if not isinstance(lock, dict):
        raise InputError("it holds no keys")
    for key, kind in kinds.items():
        if not isinstance(lock.get(key), kind):
            raise InputError(f"its {key} is missing or no {kind.__name__}")
    if "files" in kinds and not all(isinstance(file, dict) for file in lock["files"].values()):
        raise InputError("its files have no sha256")
    return lock


def _keep(source: Source, found: dict[str, Any], locks: Path) -> None:
    if not _lock_file(source, locks).is_file():
        write_json({"url": source.url, "revision": source.revision, **found}, _lock_file(source, locks))


# -------------------------------------------------------------------------------------------------------- places


def _files(folder: Path) -> list[Path]:
    """The files of a folder and its subfolders, relative to it, hidden ones aside."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.parts)]


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.resolve() == target.resolve():
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())
