"""What the commands share: their options, loading a model without its library's noise, and tables and JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sphere.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from sphere.data.records import Loaded
    from sphere.models.loading import LoadedModel

ModelDir = Annotated[Path, typer.Argument(help="Folder of a Hugging Face causal language model, or a GGUF file.")]
Requests = Annotated[Path, typer.Argument(help="Records as CounterFact, zsRE, MQuAKE or RippleEdits have them (JSON).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, ...; by default the checkpoint's own.")]
Corpus = Annotated[
    Path | None, typer.Option(help="Text for the key statistics: .jsonl, or .txt by blank lines, else by lines.")
]
Family = Annotated[str, typer.Option(help="What is scored: accuracy, success or token_accuracy.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N usable records.")]


def layer_numbers(text: str) -> tuple[int, ...]:
    """The layers of ``--layers``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--layers {text!r}: give numbers separated by commas, such as 4,5,6") from None


def load_quietly(folder: Path, device: str, dtype: str | None) -> LoadedModel:
    """The model, with the progress bars and warnings of its library off: stderr is for this program's own errors."""
    from transformers.utils import logging

    from sphere.models.loading import load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return load(folder, device=device, dtype=dtype)


def say_skipped(found: Loaded) -> None:
    """Say on stderr how many records cannot be used, and why."""
    if found.skipped:
        print(f"{len(found.skipped)} records skipped: {found.reasons()}", file=sys.stderr)


def json_text(value: Any) -> str:
    """JSON in which what is not a finite number is null."""
    return json.dumps(_finite(value), ensure_ascii=False, indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_rows(rows: list[dict[str, Any]], as_json: bool, title: str) -> None:
    """A table, or JSON."""
    if as_json:
        print(json_text(rows))
        return
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(f"{v:.6g}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def print_frame(frame: pd.DataFrame, title: str) -> None:
    """A data frame as a table."""
    print_rows([{str(key): value for key, value in row.items()} for row in frame.to_dict("records")], False, title)
