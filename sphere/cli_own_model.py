"""``sphere check | locate | tune``: from a model that nobody has settings for to the file that a study takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sphere.cli_common import (
    AsJson,
    Corpus,
    Device,
    Dtype,
    Family,
    ModelDir,
    Requests,
    layer_numbers,
    load_quietly,
    print_frame,
    print_rows,
    say_skipped,
)
from sphere.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from sphere.data.records import EditRequest
    from sphere.models.loading import LoadedModel


def check(model_dir: ModelDir, as_json: AsJson = False, device: Device = "auto", dtype: Dtype = None) -> None:
    """What a model is, whether it can be edited, and what an edit costs: exit code 0, or 2 if it cannot be.

    What cannot be loaded for editing at all is one line that says why.
    """
    from sphere.editing.inspection import inspect

    found = inspect(load_quietly(model_dir, device, dtype))
    print_rows([{"what": each.what, "found": each.found} for each in found], as_json, str(model_dir))
    if problems := [f"{each.what}: {each.problem}" for each in found if each.problem]:
        raise InputError(f"{model_dir} cannot be edited: {problems[0]}")
    if not as_json:
        print(f"{model_dir} can be edited")


def locate(
    model_dir: ModelDir,
    requests: Requests,
    out: Annotated[Path, typer.Option(help="CSV of the effects; sets and figure go beside it.")] = Path("layers.csv"),
    corpus: Corpus = None,
    method: Annotated[str, typer.Option(help="Makes the first batches, where there is a --corpus.")] = "alphaedit",
    size: Annotated[int | None, typer.Option(min=1, help="Layers in a set; by default MEMIT's share.")] = None,
    edits: Annotated[int, typer.Option(min=1, help="Facts traced, and edited in a first batch, at most.")] = 20,
    family: Family = "accuracy",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Which layers to edit: causal tracing on REQUESTS and, given a corpus, a first batch in several sets of layers."""
    _check_family(family)

    from sphere.data.records import load_requests
    from sphere.editing.methods import resolve
    from sphere.editing.stats import read_documents
    from sphere.files import write_csv
    from sphere.models.adapters import adapter
    from sphere.models.loading import default_layers
    from sphere.report.figures.tracing import indirect_effect
    from sphere.study.locate import locate_layers

    resolve(method)
    documents = [] if corpus is None else read_documents(corpus)
    found = load_requests(requests)
    facts = found.requests[:edits]
    loaded = load_quietly(model_dir, device, dtype)
    count = size or len(default_layers(adapter(loaded.model).n_layers))

    def traced(effects: pd.DataFrame, window: int) -> None:
        write_csv(effects, out)
        indirect_effect(effects, out.with_suffix(""))
        print_frame(effects, f"Indirect effect of {window} layers on {len(facts)} facts")

    located = locate_layers(loaded, facts, method, documents, size=count, family=family, seed=seed, on_effects=traced)
    if located.sets is not None:
        write_csv(located.sets, out.with_suffix(".sets.csv"))
        print_frame(located.sets, f"A first batch of {len(facts)} edits by {method}, {family}")
    print(located.said)
    say_skipped(found)


def _check_family(family: str) -> None:
    if family not in ("accuracy", "success", "token_accuracy"):
        raise InputError(f"--family {family!r}: choose accuracy, success or token_accuracy")


def tune(
    model_dir: ModelDir,
    requests: Requests,
    method: Annotated[str, typer.Option(help="Such as memit, alphaedit, sphere or memit+sphere.")],
    out: Annotated[Path, typer.Option(help="The model's file: config/models/NAME.yaml. Methods are added to it.")],
    corpus: Corpus = None,
    layers: Annotated[
        str | None, typer.Option(help="Such as 4,5,6; by default those that `sphere locate` finds.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Settings tried; give every method the same.")] = 6,
    edits: Annotated[int, typer.Option(min=1, help="Edits in a trial, at most.")] = 60,
    batch_size: Annotated[int, typer.Option(min=1, help="Edits made at once.")] = 20,
    family: Family = "accuracy",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw of settings.")] = 0,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Search a method's settings on REQUESTS, held-out records, and write the file that a study takes."""
    if out.suffix != ".yaml":
        raise InputError(f"--out {out}: name a file NAME.yaml, in config/models/ for a study")
    _check_family(family)

    from sphere.config.tuning import TuningSettings
    from sphere.data.records import load_requests
    from sphere.editing.methods import resolve
    from sphere.editing.stats import read_documents
    from sphere.models.adapters import adapter
    from sphere.study.own_model import chosen_settings, model_file, search, write_model

    chosen = resolve(method)
    if chosen.needs_statistics and corpus is None:
        raise InputError(f"{method} needs key statistics: give the text to take them from with --corpus FILE.txt")
    documents = [] if corpus is None else read_documents(corpus)
    found = load_requests(requests)
    loaded = load_quietly(model_dir, device, dtype)
    where = None if layers is None else layer_numbers(layers)
    if where is None:
        where = _layers_of(out) or _located(loaded, found.requests[:edits], documents, out, family, seed)
    model = model_file(out, model_dir, adapter(loaded.model), where, len(documents), dtype)
    budget = TuningSettings(trials=trials, edits=min(edits, len(found.requests)), seed=seed)
    frame = search(
        loaded, found.requests, chosen, model, documents, tuning=budget, batch_size=batch_size, family=family
    )
    settings = chosen_settings(frame, chosen)
    beside = write_model(out, model, method, settings, frame)
    print_frame(frame, f"{method} on {budget.edits} held-out edits, {family}")
    print(f"{method}: {json.dumps(settings)} written to {out}, its trials to {beside}")
    say_skipped(found)


def _layers_of(path: Path) -> tuple[int, ...] | None:
    """The layers that the model's file edits, if it is there already; says so."""
    from sphere.config.base import read_settings
    from sphere.config.model import ModelConfig

    if not path.exists():
        return None
    layers = read_settings(ModelConfig, path).layers
    print(f"edit layers {','.join(map(str, layers))}: {path} has them already")
    return layers


def _located(
    loaded: LoadedModel, facts: Sequence[EditRequest], documents: Sequence[str], out: Path, family: str, seed: int
) -> tuple[int, ...]:
    """The layers that ``sphere locate`` recommends by its defaults; says so, and writes its tables beside ``out``."""
    from sphere.config.tuning import LocateSettings
    from sphere.files import write_csv
    from sphere.models.adapters import adapter
    from sphere.models.loading import default_layers
    from sphere.study.locate import locate_layers

    default = LocateSettings()
    located = locate_layers(
        loaded,
        facts[: default.records],
        default.method,
        documents,
        size=len(default_layers(adapter(loaded.model).n_layers)),
        seed=seed,
        family=family,
    )
    write_csv(located.effects, out.with_suffix(".layers.csv"))
    if located.sets is not None:
        write_csv(located.sets, out.with_suffix(".layers.sets.csv"))
    print(located.said)
    return located.layers
