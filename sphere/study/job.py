"""What every workflow script does around its one call: its log, its provenance, one-line errors. No torch import."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from sphere.errors import InputError, NumericalError, refused_by_machine
from sphere.progress import start_up, starting, telling
from sphere.study.provenance import StaleArtifact, lineage, machine, record, same_settings
from sphere.study.unfinished import Unfinished


@contextmanager
def job(snakemake: Any, *, sources: Iterable[str] = (), continues: str | None = None) -> Iterator[Unfinished]:
    """Run the body of a workflow script.

    All output goes to the rule's log. Before the body every input is verified against its provenance, and the inputs
    against each other, except those named in ``sources``: a user's own files, which have none. The input named
    ``continues``, where it is given, must have been made with this job's own settings. The body gets a place for what
    it finishes before its end, which the next start finds (``Unfinished``); a body of one piece needs none.
    After the body each output gets its provenance, with the wall seconds of the body, the machine, and the CPU seconds
    of the process up to there and of its start-up: until it had loaded its model, or the body began. Bad input ends the
    job with one line and status 2, a full disk and the like with one line and status 1, anything else with a
    traceback and status 1; what the log does not take goes to the terminal.
    """
    starting()
    with _logged(snakemake.log, " ".join([snakemake.rule, *map(str, snakemake.wildcards)])) as say:
        try:
            settings = dict(snakemake.params.items())
            own = [path for name in sources for path in paths(snakemake.input.get(name))]
            made = [path for path in map(Path, snakemake.input) if path not in own]
            ancestors = lineage(made, sources=own)
            for path in paths(snakemake.input.get(continues)) if continues else []:
                same_settings(path, settings)
            what = {"rule": snakemake.rule, "wildcards": dict(snakemake.wildcards.items())}
            unfinished = Unfinished(list(snakemake.output), what, settings, ancestors)
            start, started = time.perf_counter(), time.process_time()
            yield unfinished
            sys.stdout.flush()  # a log that takes nothing fails the job before its outputs are recorded
            unfinished.move()
            cpu = {"cpu_seconds": time.process_time(), "start_up_cpu_seconds": start_up(otherwise=started)}
            what |= {"seconds": round(time.perf_counter() - start, 2), "machine": machine()}
            what |= {name: round(spent, 2) for name, spent in cpu.items()}
            for path in snakemake.output:
                record(path, job=what, settings=settings, ancestors=ancestors)
        except (InputError, NumericalError) as error:
            kind = "refused" if isinstance(error, StaleArtifact) else "error"
            say(f"{kind}: {error}")
            raise SystemExit(2 if isinstance(error, InputError) else 1) from None
        except Exception as error:
            refusal = refused_by_machine(error)
            outputs = ", ".join(snakemake.output)
            say(f"error: {refusal} (this job writes {outputs})" if refusal else traceback.format_exc().rstrip())
            raise SystemExit(1) from None


def paths(value: Any) -> list[Path]:
    """A named input or output as a list of paths, whether it is one, several or none."""
    if value is None:
        return []
    return [Path(value)] if isinstance(value, str) else [Path(path) for path in value]


@contextmanager
def _logged(log: Iterable[str], name: str) -> Iterator[Callable[[str], None]]:
    """Send everything this process prints to the rule's log file; yields what says its last words.

    The progress of a long job ``name`` is a line in the run's own log too, now and then.
    """
    path = next(iter(log), None)
    if path is None:
        yield partial(_say, terminal=2)
        return
    file = _opened(path)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            with telling(lambda line: _write(kept[1], f"{name}: {line}")):
                yield partial(_say, terminal=kept[1])
        finally:
            with suppress(OSError):  # what the log does not take stays in the buffers, and goes to the terminal
                sys.stdout.flush()
                sys.stderr.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)


def _opened(path: str) -> TextIO:
    """The log, emptied; ends the process with one line if there can be none."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        reason = refused_by_machine(error) or f"{error}: remove what is in its way"
        raise SystemExit(f"error: the log {path} cannot be written: {reason}") from None


def _write(place: int, line: str) -> None:
    with suppress(OSError):  # a run whose own log takes nothing goes on
        os.write(place, f"{line}\n".encode(errors="backslashreplace"))


def _say(text: str, *, terminal: int) -> None:
    """Write ``text`` into the log, and to the terminal, too, if the log does not take all of it."""
    line, taken = f"{text}\n".encode(errors="backslashreplace"), 0
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
        taken = os.write(2, line)
    if taken < len(line):
        os.write(terminal, line)
