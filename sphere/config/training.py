"""How the embedded model is trained: ``source.training`` of a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sphere.config.base import Count, Positive, Rate, Settings, Share


class TrainingSettings(Settings):
    """The small Llama-architecture model and how it is trained on the world's corpus."""

    vocabulary: Positive = 2048
    """Tokens of the byte-level BPE vocabulary."""
    width: Positive = 128
    """Hidden size."""
    inner: Positive = 768
    """Size of the MLP's inner layer: the length of a key."""
    depth: Positive = 6
    """Layers."""
    heads: Positive = 4
    """Attention heads."""
    embedding_std: Rate = 1.0
    """Standard deviation of the (untied) token embeddings at the start."""
    output_scale: Rate = 0.1
    """Factor on the initial output projections."""
    length: Positive = 80
    """Tokens in a training row."""
    batch_size: Positive = 32
    """Rows in a step."""
    steps: Positive = 1500
    """Optimiser steps."""
    lr: Rate = 2e-3
    """AdamW's peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay, on matrices only."""
    warmup: Count = 20
    """Steps of linear warm-up."""
    decay_share: Share = 0.5
    """Share of the steps, at the end, over which the rate falls to zero."""
    report_every: Positive = 100
    """Steps between rows of training.csv."""
    seed: int = 0
    """Seed of initialisation and of the order of the rows."""
