"""The job that finds target values once, for every method and order that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sphere.config.model import EditSettings
from sphere.data.records import EditRequest, load_requests
from sphere.editing.contexts import Contexts
from sphere.editing.frozen import find_frozen
from sphere.editing.methods import edited_layers
from sphere.models.adapters import adapter
from sphere.models.loading import load


def find_targets(
    model: Path, streams: Sequence[Path], *, editing: EditSettings, contexts: Path, part: int, size: int, out: Path
) -> None:
    """Write the target values of part number ``part``, of ``size`` requests, of all that the streams edit.

    Requests are counted by case, each once; a part behind the last of them is empty.
    """
    every: dict[int, EditRequest] = {r.case_id: r for path in streams for r in load_requests(path).requests}
    mine = [every[case] for case in sorted(every)[part * size : (part + 1) * size]]
    loaded = load(model, **editing.load_settings())
    parts, settings = adapter(loaded.model), editing.values
    layers, prefixes = edited_layers(editing.layers, settings), Contexts.read(contexts)
    find_frozen(parts, loaded.tokenizer, mine, prefixes, layers=layers, settings=settings).save(out)
    print(f"{out}: {len(mine)} requests", flush=True)
