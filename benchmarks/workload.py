"""What is measured on: a model, and the texts of the embedded study's world or records of one's own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerBase

from sphere.config.model import ModelConfig
from sphere.data.records import EditRequest, load_requests
from sphere.data.world.build import build
from sphere.data.world.training import new_model, train_tokenizer
from sphere.editing.contexts import Contexts, sample_contexts
from sphere.editing.stats import read_documents
from sphere.models.adapters import Adapter, adapter
from sphere.models.loading import load
from sphere.study.configuration import Study, load_study

CONFIG = Path(__file__).parents[1] / "config"
DOCUMENTS = 4000
"""Documents of the world's corpus: enough to train a tokenizer on and to take key statistics from."""
LLAMA3_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
    rope_theta=500000.0,
    tie_word_embeddings=False,
)


@dataclass(frozen=True)
class Texts:
    """The world as far as it is read here, or one's own records and text."""

    requests: tuple[EditRequest, ...]
    """Of the world its CounterFact records, then its zsRE records, in stream order."""
    documents: list[str]


@dataclass(frozen=True)
class Workload:
    """A model with its settings, tokenizer and texts."""

    name: str
    parts: Adapter
    tokenizer: PreTrainedTokenizerBase
    settings: ModelConfig
    contexts: Contexts
    texts: Texts

    @property
    def last(self) -> int:
        """The layer of the target values."""
        return self.settings.layers[-1]


def texts(study: Study) -> Texts:
    """The records of the study's world and the first documents of a shorter corpus of it."""
    assert study.study.world is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(study.study.world.model_copy(update={"documents": DOCUMENTS}), folder)
        records = [load_requests(folder / f"{dataset}.json").requests for dataset in ("counterfact", "zsre")]
        return Texts((*records[0], *records[1]), read_documents(folder / "corpus.txt"))


def embedded(trained: Path | None) -> Workload:
    """The embedded study's model: the one in the folder ``trained``, or one of its shape with random weights."""
    study = load_study("embedded", root=CONFIG)
    settings, world = study.models["embedded"], texts(study)
    if trained is not None:
        loaded = load(trained, device=settings.device)
        model, tokenizer, name = loaded.model, loaded.tokenizer, "embedded model"
    else:
        training = settings.source.training
        tokenizer = train_tokenizer(world.documents, training.vocabulary)
        model = new_model(training, len(tokenizer), generator=torch.Generator().manual_seed(training.seed))
        model.eval().requires_grad_(False)
        name = "embedded shape, random weights"
    return Workload(name, adapter(model), tokenizer, settings, _contexts(tokenizer, world.documents, settings), world)


def llama3_8b(config: LlamaConfig = LLAMA3_8B, device: str = "cuda") -> Workload:
    """A model of Llama3-8B's shape with random bfloat16 weights, edited where the paper's is."""
    study = load_study("paper", root=CONFIG)
    settings, world = study.models["llama3-8b-instruct"], texts(load_study("embedded", root=CONFIG))
    tokenizer = train_tokenizer(world.documents, 2048)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.eval().requires_grad_(False)
    contexts = _contexts(tokenizer, world.documents, settings)
    return Workload("Llama3-8B shape, random weights", adapter(model), tokenizer, settings, contexts, world)


def real(
    model: Path, records: Sequence[Path], study: str, corpus: Path | None = None, device: str = "auto"
) -> Workload:
    """A model of one's own with contexts that it samples and the settings of the study's first one, and its texts."""
    settings = next(iter(load_study(study, root=CONFIG).models.values()))
    loaded = load(model, device=device)
    parts, wanted = adapter(loaded.model), settings.contexts
    contexts = sample_contexts(
        parts, loaded.tokenizer, count=wanted.count, length=wanted.length, generator=torch.Generator().manual_seed(0)
    )
    requests = [request for path in records for request in load_requests(path).requests]
    requests = [replace(request, case_id=i) for i, request in enumerate(requests)]  # files may share their numbers
    documents = read_documents(corpus)[: settings.statistics.documents] if corpus else []
    name = f"{model.resolve().name}, {', '.join(path.name for path in records)}"
    return Workload(name, parts, loaded.tokenizer, settings, contexts, Texts(tuple(requests), documents))


def _contexts(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], settings: ModelConfig) -> Contexts:
    """As many prefixes as the model samples, each as long, but from documents: random weights write no text."""
    wanted = settings.contexts
    chosen = tokenizer(list(documents[: wanted.count]), add_special_tokens=False)["input_ids"]
    return Contexts((("",), tuple(tokenizer.decode(ids[: wanted.length]).strip() + ". " for ids in chosen)))
