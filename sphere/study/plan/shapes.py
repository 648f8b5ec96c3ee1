"""A model's dimensions, and the counts of numbers that follow from them and from its precision. No torch import."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sphere.config.base import validated
from sphere.config.model import ModelConfig, PathSource, ShapeSettings, WorldSource
from sphere.errors import InputError
from sphere.files import read_json

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class Sizes:
    """Counts of numbers that follow from a model's dimensions and precision."""

    shape: ShapeSettings
    dtype: str

    @property
    def bytes(self) -> int:
        """Of one number of the model."""
        return BYTES[self.dtype]

    @property
    def wide(self) -> int:
        """Bytes of one number of an edited layer: float32 or wider."""
        return max(4, self.bytes)

    @property
    def weight(self) -> int:
        """The edited matrix of a layer, d_out x d_in."""
        return self.shape.width * self.shape.inner

    @property
    def moment(self) -> int:
        """A matrix over keys, d_in x d_in."""
        return self.shape.inner**2

    @property
    def heads(self) -> int:
        """Width of all query heads together."""
        return self.shape.heads * (self.shape.head_dim or self.shape.width // self.shape.heads)

    @property
    def layer(self) -> int:
        """Parameters of a layer: the matrices. Biases and norms are less than a thousandth."""
        shared = (self.shape.kv_heads or self.shape.heads) / self.shape.heads
        attention = 2 * self.shape.width * self.heads * (1 + shared)
        return round(attention) + (3 if self.shape.gated else 2) * self.weight

    @property
    def head(self) -> int:
        return self.shape.vocabulary * self.shape.width

    @property
    def parameters(self) -> int:
        """Of the whole model, to within two thousandths."""
        return (1 if self.shape.tied else 2) * self.head + self.shape.depth * self.layer

    @property
    def saved(self) -> int:
        """Bytes that backpropagation through one frozen layer keeps of one token, at most.

        The float32 copies in the two norms, queries, keys, values (of prefix and tail) and outputs of the attention,
        and inside the MLP four numbers an inner unit.
        """
        return 16 * self.shape.width + self.bytes * (8 * self.heads + 4 * self.shape.inner)

    @property
    def passed(self) -> int:
        """Bytes that a forward pass without gradients holds of one token, at most."""
        return self.bytes * (8 * self.shape.width + 4 * self.shape.inner)

    @property
    def cached(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        shared = (self.shape.kv_heads or self.shape.heads) / self.shape.heads
        return round(2 * self.bytes * self.shape.depth * self.heads * shared)


CONFIG_KEYS: dict[str, tuple[str, ...]] = {
    "width": ("hidden_size", "n_embd"),
    "inner": ("intermediate_size", "n_inner"),
    "depth": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "vocabulary": ("vocab_size",),
    "tied": ("tie_word_embeddings",),
}
"""What config.json calls each key of ``shape``; one that it leaves out, or has as null, is not checked."""


def shape_of(model: ModelConfig) -> ShapeSettings:
    """A model's dimensions: those in its file, in its own folder, or of the model that the study trains.

    InputError where there are none.
    """
    if isinstance(model.source, WorldSource):
        t = model.source.training
        return ShapeSettings(width=t.width, inner=t.inner, depth=t.depth, heads=t.heads, vocabulary=t.vocabulary)
    if model.shape is not None:
        return model.shape
    where = f"models/{model.name}.yaml: shape is missing: copy the model's dimensions from its config.json"
    if isinstance(model.source, PathSource):
        path = model.source.path / "config.json"
        return validated(ShapeSettings, _read_shape(path), f"{where} (config/README.md says which), or mend {path}")
    raise InputError(f"{where} (config/README.md says which)")


def _read_shape(path: Path) -> dict[str, Any]:
    """What a config.json says of a model's dimensions; its MLP is taken to have a gate, which makes it larger."""
    there = _read_config(path)
    found = {key: there[name] for key, names in CONFIG_KEYS.items() for name in names if there.get(name) is not None}
    if "inner" not in found and "width" in found:
        found["inner"] = 4 * found["width"]
    return found


def _read_config(path: Path) -> dict[str, Any]:
    """The content of a config.json; InputError unless it is an object whose dimensions are integers."""
    there = read_json(path)
    if not isinstance(there, dict):
        raise InputError(f'{path} is no model\'s: it must hold an object, such as {{"hidden_size": 4096, ...}}')
    for names in CONFIG_KEYS.values():
        for name in names:
            if not isinstance(there.get(name), int | None):  # that of tie_word_embeddings is true or false
                raise InputError(f"{path}: {name} is {reprlib.repr(there[name])}, no integer: mend it")
    return there


def check_shape(name: str, shape: ShapeSettings, folder: Path) -> None:
    """Hold the ``shape`` of models/NAME.yaml against the config.json in ``folder``; InputError where they differ."""
    there = _read_config(folder / "config.json")
    for key, names in CONFIG_KEYS.items():
        said = getattr(shape, key)
        for other in names:
            found = there.get(other)
            if found is not None and said is not None and found != said:
                raise InputError(
                    f"models/{name}.yaml: shape.{key} is {said}, but {other} is {found} in {folder / 'config.json'}: "
                    "correct the shape"
                )
