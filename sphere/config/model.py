"""config/models/NAME.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sphere.config.base import Count, Positive, Settings
from sphere.config.names import Name, split_name
from sphere.config.training import TrainingSettings
from sphere.config.values import ContextSettings, ValueSettings

Hyperparameters = dict[str, float | int | bool | str | None]

MethodSettings = dict[str, float | int | bool | str | Hyperparameters | None]


class WorldSource(Settings):
    """A model that the study trains on its own world."""

    kind: Literal["world"]
    """Trained by the workflow on the study's world."""
    training: TrainingSettings = TrainingSettings()
    """The model's sizes and its training."""


class HubSource(Settings):
    """A model of the Hugging Face hub."""

    kind: Literal["hub"]
    """Downloaded from the Hugging Face hub."""
    id: str
    """Such as meta-llama/Meta-Llama-3-8B-Instruct: the url of a model in config/sources.tsv, which has its revision."""


class PathSource(Settings):
    """A model folder of your own in Hugging Face's layout."""

    kind: Literal["path"]
    """Taken from a folder."""
    path: Path
    """The folder; it must hold config.json, a tokenizer and safetensors."""


class GgufSource(Settings):
    """A model in one GGUF file, as llama.cpp's quantised models are; its weights are written out in float32."""

    kind: Literal["gguf"]
    """Taken from a GGUF file."""
    item: Name | None = None
    """The row of config/sources.tsv that it is, or"""
    path: Path | None = None
    """the file, if it is one of yours."""

    @model_validator(mode="after")
    def _one_place(self) -> GgufSource:
        if (self.item is None) == (self.path is None):
            raise ValueError("source: give either item, a row of sources.tsv, or path, a file of yours")
        return self


class StatisticsSettings(Settings):
    """Key second moments C = E[k k^T] over a corpus."""

    documents: Positive = 100_000
    """Documents of the corpus that are read, from its start."""
    max_length: Positive = 512
    """Tokens of a piece: longer documents are cut into such."""
    probe_keys: Count = 256
    """Keys of the last documents that are kept out of C, to measure perturbations of the output on."""
    token_budget: Positive = 8192
    """Tokens in a forward pass; changes speed and memory only."""


class ComputeSettings(Settings):
    """What the jobs on this model ask of a machine, at the first attempt; each retry asks for that much more."""

    gpu: Count = 0
    """GPUs a job takes."""
    mem_mb: Positive | None = None
    """Memory in MiB of every job; null: of each job what the plan expects, times ``machine.memory_margin``."""
    runtime: Positive | None = None
    """Minutes of every job; null: of each job what the plan expects, times ``machine.time_margin``."""


class ShapeSettings(Settings):
    """A model's dimensions, as its config.json has them: what the plan counts with before the model is there."""

    width: Positive
    """Hidden size (hidden_size, n_embd)."""
    inner: Positive
    """Size of the MLP's inner layer, the length of a key (intermediate_size; GPT-2 and GPT-J: 4 x width)."""
    depth: Positive
    """Layers (num_hidden_layers, n_layer)."""
    heads: Positive
    """Attention heads (num_attention_heads, n_head)."""
    kv_heads: Positive | None = None
    """Heads of keys and values (num_key_value_heads); null: as many as ``heads``."""
    head_dim: Positive | None = None
    """Width of a head (head_dim); null: ``width`` / ``heads``."""
    vocabulary: Positive
    """Tokens (vocab_size)."""
    tied: bool = False
    """Whether the head is the embedding (tie_word_embeddings)."""
    gated: bool = True
    """Whether the MLP has a gate beside its two projections (Llama, Mistral, Qwen: yes; GPT: no)."""


class EditSettings(Settings):
    """The part of a model's settings that an edit depends on."""

    layers: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Edited layers, ascending; the values are optimised at the last."""
    dtype: str | None = None
    """Precision of the model in memory (float32, bfloat16, ...); null keeps the checkpoint's own."""
    device: Annotated[str, Field(pattern="^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"
    """auto, cpu, cuda or cuda:N."""
    trust_remote_code: bool = False
    """Run the Python that a model folder of your own (``source.kind: path``) brings with it; a warning says so."""
    values: ValueSettings = ValueSettings()
    """How target values are found."""

    def load_settings(self) -> dict[str, Any]:
        """How the model is loaded: keyword arguments of ``sphere.models.load``."""
        return {"device": self.device, "dtype": self.dtype, "trust_remote_code": self.trust_remote_code}


class ModelConfig(EditSettings):
    """config/models/NAME.yaml: a base model, where to edit it, and hyperparameters that belong to it."""

    name: Name
    """Its folder under results/, and the name in tables."""
    source: Annotated[WorldSource | HubSource | PathSource | GgufSource, Field(discriminator="kind")]
    """Where the model comes from."""
    contexts: ContextSettings = ContextSettings()
    """Its context templates."""
    statistics: StatisticsSettings = StatisticsSettings()
    """Its key statistics."""
    methods: dict[str, MethodSettings] = {}
    """Hyperparameters by method, over the method's own defaults; its ``values`` go over the model's."""
    tuning_grid: dict[str, dict[str, tuple[float | int | bool | str, ...]]] = {}
    """By method: the values that tuning tries of each hyperparameter."""
    resources: ComputeSettings = ComputeSettings()
    """What its jobs ask of a machine."""
    shape: ShapeSettings | None = None
    """Its dimensions, for the plan; held against config.json once the model is there. A model of the hub or a GGUF file
    needs it."""

    @model_validator(mode="after")
    def _ascending(self) -> ModelConfig:
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers must ascend without repeats: {list(self.layers)}")
        sized = self.source.training if isinstance(self.source, WorldSource) else self.shape
        if sized is not None and self.layers[-1] >= sized.depth:
            raise ValueError(f"layers: {self.layers[-1]} is beyond the last layer, {sized.depth - 1}")
        return self

    @model_validator(mode="after")
    def _own_code(self) -> ModelConfig:
        if self.trust_remote_code and not isinstance(self.source, PathSource):
            raise ValueError("trust_remote_code is for a folder of your own: give it by source.kind: path")
        return self

    def hyperparameters(self, method: str) -> MethodSettings:
        """What ``methods`` says of ``method``: ``ft+sphere`` and ``ft@lr=0.1`` have what ``ft`` has, then their own."""
        base, _ = split_name(method)
        parts = base.split("+")
        found: MethodSettings = {}
        for name in dict.fromkeys([*("+".join(parts[: i + 1]) for i in range(len(parts))), method]):
            own = self.methods.get(name, {})
            before, values = found.get("values"), own.get("values")
            found |= own
            if isinstance(before, dict) and isinstance(values, dict):
                found["values"] = before | values
        return found

    def edit_settings(self) -> EditSettings:
        """The slice of these settings that an edit depends on."""
        return EditSettings(**{key: getattr(self, key) for key in EditSettings.model_fields})
