"""The sample of neurons that figures draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file


def sampled_weights(tables: Path) -> dict[tuple[str, str, int], dict[str, NDArray[np.float32]]]:
    """{(model, dataset, layer): {"original" or method: sampled rows}} of neurons.safetensors; empty without it.

    A model and dataset have one layer there, that which the most methods have a sample of: only rows of one weight
    compare. Methods that edit another one (FT, in the paper's settings) are left out.
    """
    path = tables / "neurons.safetensors"
    layers: dict[tuple[str, str], dict[int, dict[str, NDArray[np.float32]]]] = {}
    for key, weight in sorted(load_file(path).items()) if path.exists() else ():
        model, dataset, layer, label = key.split("/")
        layers.setdefault((model, dataset), {}).setdefault(int(layer), {})[label] = weight
    found = {}
    for (model, dataset), by_layer in layers.items():
        shared = max(by_layer, key=lambda layer: (len(by_layer[layer]), -layer))
        found[model, dataset, shared] = by_layer[shared]
    return found
