"""A study's corpus: text for key statistics from its start, passages that nothing else reads from its end."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from sphere.config.dataset import CORPUS_TASKS
from sphere.data.items import write_passages
from sphere.data.messages import line
from sphere.errors import InputError
from sphere.files import write_atomically

PASSAGES = 8
"""Passages of the perplexity task."""
CHARACTERS = 240
"""Characters that each of them begins with: about 40 words of English."""


def extract_corpus(file: Path, out: Path, *, column: str, documents: int) -> None:
    """Write the first ``documents`` texts of ``file`` separated by blank lines, those within a text removed.

    ``file`` is parquet with the texts in ``column``, or text that blank lines separate already.
    """
    count = 0
    with write_atomically(out) as temporary:
        with temporary.open("w", encoding="utf-8") as written:
            for text in _documents(file, column):
                written.write(f"{text}\n\n")
                count += 1
                if count == documents:
                    break
        if count < documents:
            raise InputError(
                f"{file} has {count} texts, statistics.documents (and neutral.passages, where there are any) asks for "
                f"{documents}: lower it, or separate texts by blank lines"
            )
    print(f"{out}: {count} texts")


def write_held_out(file: Path, folder: Path, *, column: str, skip: int) -> None:
    """Write the perplexity task into ``folder``, as lm-evaluation-harness has it: the last long texts of ``file``.

    The first ``skip`` texts are not taken, since key statistics and neutral text are. A passage is the beginning of a
    text, to the last whole word within ``CHARACTERS``. InputError, with how many texts are that long, if they are too
    few.
    """
    last: deque[str] = deque(maxlen=PASSAGES)
    for i, document in enumerate(_documents(file, column)):
        text = " ".join(document.split())
        if i >= skip and len(text) > CHARACTERS:
            last.append(text[: CHARACTERS + 1].rsplit(" ", 1)[0][:CHARACTERS])
    (task,) = CORPUS_TASKS
    if len(last) < PASSAGES:
        raise InputError(
            f"{file} has {len(last)} texts of more than {CHARACTERS} characters behind the first {skip}, which key "
            f"statistics and neutral text are taken from; {task} needs {PASSAGES}: lower statistics.documents"
        )
    write_passages(task, list(last), folder)
    print(f"{folder}: {len(last)} passages")


def _documents(file: Path, column: str) -> Iterator[str]:
    """The texts of ``file`` that are not blank, without the blank lines in them."""
    for text in _texts(file, column):
        if lines := [each for each in text.splitlines() if each.strip()]:
            yield "\n".join(lines)


def _texts(file: Path, column: str) -> Iterator[str]:
    with file.open("rb") as opened:
        is_parquet = opened.read(4) == b"PAR1"
    if not is_parquet:
        yield from re.split(r"\n\s*\n", file.read_text(encoding="utf-8"))
        return
    from pyarrow import ArrowInvalid, parquet

    try:
        content = parquet.ParquetFile(file)
    except (OSError, ArrowInvalid) as error:
        raise InputError(f"{file} is no parquet file ({line(error)}): delete it and fetch it again") from None
    names = content.schema_arrow.names
    if column not in names:
        raise InputError(f"{file} has no column {column!r}: set corpus.column to one of {', '.join(names)}")
    for batch in content.iter_batches(batch_size=1000, columns=[column]):
        yield from map(str, batch.column(0).to_pylist())
