"""Settings for a model that nobody has settings for: a search on held-out records, and the file that a study takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from sphere.config.base import read_settings, validated
from sphere.config.model import ModelConfig, StatisticsSettings
from sphere.config.tuning import TuningSettings
from sphere.config.values import ContextSettings
from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts, sample_contexts
from sphere.editing.frozen import FrozenTargets
from sphere.editing.methods import Method
from sphere.editing.spectra import Spectra
from sphere.editing.stats import Statistics, collect_statistics
from sphere.errors import InputError
from sphere.files import write_atomically, write_csv
from sphere.geometry.directions import principal_spectrum
from sphere.geometry.null_space import key_spectrum
from sphere.models.adapters import Adapter
from sphere.models.loading import LoadedModel
from sphere.study.tune import trials, try_on

SCHEMA = "# yaml-language-server: $schema=../../workflow/schemas/model.schema.json\n"


def model_file(
    path: Path, source: Path, parts: Adapter, layers: Sequence[int], documents: int, dtype: str | None = None
) -> ModelConfig:
    """What ``path`` says of the model so far, or a first version; InputError if it is of another model or layers.

    ``documents`` of text are at hand, or 0. All methods of a file share their key statistics, so that a file which was
    made with other text is refused too.
    """
    kind = "path" if source.is_dir() else "gguf"
    layers = list(layers)
    if path.exists():
        found = read_settings(ModelConfig, path)
        place = getattr(found.source, "path", None)
        if place is None or Path(place).resolve() != source.resolve() or list(found.layers) != layers:
            raise InputError(f"{path} is of {place} with layers {list(found.layers)}: name another file with --out")
        if not documents:
            return found
        if "statistics" in found.model_fields_set and found.statistics.documents != documents:
            raise InputError(
                f"{path}: statistics.documents is {found.statistics.documents}, this --corpus has {documents}: give "
                "every method the same text, or name another file with --out"
            )
        statistics = found.statistics.model_copy(update={"documents": documents})
        return found.model_copy(update={"statistics": statistics})
    config = parts.model.config
    weight = parts.weight(layers[0])
    shape = {
        "width": weight.shape[0],
        "inner": weight.shape[1],
        "depth": parts.n_layers,
        "heads": config.num_attention_heads,
        "kv_heads": getattr(config, "num_key_value_heads", None),
        "head_dim": getattr(config, "head_dim", None),
        "vocabulary": config.vocab_size,
        "tied": bool(getattr(config, "tie_word_embeddings", False)),
        "gated": hasattr(parts.layer(0).get_submodule(parts.family.projection.rpartition(".")[0]), "act_fn"),
    }
    plain: dict[str, Any] = {
        "name": path.stem,
        "source": {"kind": kind, "path": str(source.resolve())},
        "layers": layers,
        "shape": shape,
    }
    if documents:
        plain["statistics"] = {"documents": documents}
    if dtype is not None:
        plain["dtype"] = dtype
    if parts.device.type == "cuda":
        plain["resources"] = {"gpu": 1}
    return validated(ModelConfig, plain, str(path))


def sampled_contexts(loaded: LoadedModel, settings: ContextSettings) -> Contexts:
    """Contexts as a study's own job samples them of the unedited model."""
    generator = torch.Generator().manual_seed(settings.seed)
    parts = Adapter(loaded.model)
    return sample_contexts(parts, loaded.tokenizer, count=settings.count, length=settings.length, generator=generator)


def prepare(
    loaded: LoadedModel,
    method: Method,
    layers: Sequence[int],
    documents: Sequence[str],
    settings: StatisticsSettings,
) -> tuple[Statistics | None, Spectra]:
    """Key statistics and decompositions of the unedited model, as far as ``method`` reads them."""
    parts, statistics, spectra = Adapter(loaded.model), None, Spectra({}, {})
    if method.needs_statistics:
        how = settings.model_dump(exclude={"documents"}) | {"gradients": method.needs_gradients}
        some = documents[: settings.documents]
        statistics = collect_statistics(parts, loaded.tokenizer, some, layers, **how)
        if "key_spectrum" in method.needs:
            spectra.keys.update({i: key_spectrum(c) for i, c in statistics.second_moments.items()})
    if "principal_spectrum" in method.needs:
        spectra.principal.update({i: principal_spectrum(parts.weight(i)) for i in layers})
    return statistics, spectra


def search(
    loaded: LoadedModel,
    requests: Sequence[EditRequest],
    method: Method,
    model: ModelConfig,
    documents: Sequence[str],
    *,
    tuning: TuningSettings,
    batch_size: int,
    family: str,
) -> pd.DataFrame:
    """All trials of ``method`` on ``requests``: its defaults first, then a draw of what its components say to try.

    The columns are ``try_on``'s. Raises InputError if no trial scores.
    """
    rng = np.random.default_rng([tuning.seed, 11])
    found = method.hyperparameters | {f"values.{k}": v for k, v in method.value_settings(model.values).plain().items()}
    first = {key: found[key] for key in method.search}
    drawn = [trial for trial in trials(method.search, tuning.trials, rng=rng) if trial != first]
    candidates = [first, *drawn][: tuning.trials]
    layers = method.edited_layers(model.layers, model.values)
    contexts = sampled_contexts(loaded, model.contexts)
    statistics, spectra = prepare(loaded, method, layers, documents, model.statistics)
    frame = try_on(
        loaded,
        requests[: tuning.edits],
        candidates,
        method=method.name,
        hyperparameters={},
        layers=model.layers,
        values=model.values,
        contexts=contexts,
        statistics=statistics,
        spectra=spectra,
        targets=FrozenTargets(),
        evaluate_every=tuning.evaluated_every(batch_size),
        batch_size=batch_size,
        seed=tuning.seed,
        family=family,
    )
    if frame["score"].max() <= 0:
        other = "success" if family == "accuracy" else "accuracy"
        raise InputError(
            f"no trial of {method.name} scores by {family}: try --family {other}, more --trials, other --layers, or "
            "records of facts that the model knows"
        )
    return frame


def chosen_settings(frame: pd.DataFrame, method: Method) -> dict[str, Any]:
    """The best trial's settings, target values' under ``values``: an entry of a model's ``methods``."""
    best = frame.iloc[int(frame["score"].to_numpy().argmax())]
    found: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for key in method.search:
        if key in best and pd.notna(best[key]):
            kind, value = (values, key.removeprefix("values.")) if key.startswith("values.") else (found, key)
            kind[value] = best[key].item() if hasattr(best[key], "item") else best[key]
    return found | ({"values": values} if values else {})


def write_model(path: Path, model: ModelConfig, method: str, settings: Mapping[str, Any], trials: pd.DataFrame) -> Path:
    """Write ``model`` with the ``settings`` of one method to ``path``, and the trials beside it; where those are."""
    model = model.model_copy(update={"methods": {**model.methods, method: dict(settings)}})
    plain = model.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=118, default_flow_style=None)
    said = "# Written by `sphere tune`; the trials of each method are beside it.\n"
    with write_atomically(path) as temporary:
        temporary.write_text(SCHEMA + said + text, encoding="utf-8")
    beside = path.with_name(f"{path.stem}.{method}.trials.csv")
    write_csv(trials.assign(layers=",".join(map(str, model.layers))), beside)
    return beside
