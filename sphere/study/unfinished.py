"""What a job that makes several things has finished, kept where its next start finds it. No torch import.

A workflow engine removes the outputs of a job that did not end. A job that edits a whole stream therefore writes each
checkpoint beside its outputs first, with its provenance, and moves all of them at its end.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sphere.config.names import UNFINISHED
from sphere.errors import InputError
from sphere.study.provenance import made_from, record, sidecar


class Unfinished:
    """A folder beside a job's ``outputs`` that holds those of them that are finished before the job ends."""

    def __init__(
        self, outputs: Sequence[str], job: Mapping[str, Any], settings: Mapping[str, Any], ancestors: Mapping[Path, str]
    ) -> None:
        self.outputs = [Path(path) for path in outputs]
        self.root = Path(os.path.commonpath([path.parent for path in self.outputs]))
        self.folder = self.root / UNFINISHED / str(job["rule"])
        self._made: dict[str, Any] = {"job": job, "settings": settings, "ancestors": ancestors}

    def path(self, output: str | Path) -> Path:
        """Where ``output`` is written until the job ends."""
        return self.folder / Path(output).relative_to(self.root)

    def has(self, outputs: Iterable[str | Path]) -> bool:
        """Whether an earlier start of this very job finished all of these: same code, settings and ancestors."""
        given = self._made["settings"], self._made["ancestors"]
        try:
            return all(sidecar(self.path(o)).exists() and made_from(self.path(o), *given) for o in outputs)
        except InputError:  # changed since, or of another version
            return False

    def left(
        self, outputs: Sequence[Path], inputs: Sequence[Path] = ()
    ) -> tuple[list[Path], list[Path], Callable[[Path], None]]:
        """Of ``outputs``, each made from one of ``inputs`` if there are any, what no earlier start finished.

        The inputs, the paths to write, and what to call with each path once it is whole.
        """
        todo = [i for i, output in enumerate(outputs) if not self.has([output])]
        written = {self.path(outputs[i]): outputs[i] for i in todo}
        return [inputs[i] for i in todo if inputs], list(written), lambda path: self.finish([written[path]])

    def finish(self, outputs: Iterable[str | Path]) -> None:
        """What has been written to the paths of these is whole: a later start goes on behind it."""
        for output in outputs:
            record(self.path(output), **self._made)

    def move(self) -> None:
        """Put everything that was written here where it belongs."""
        for output in self.outputs:
            if (here := self.path(output)).exists():
                os.replace(here, output)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()
