"""Operations and bytes of one batch of edits, counted from the shapes; a product of a x b by b x c takes 2 a b c.

Attention scores (well under 1 % at the length of a prompt), norms and activations are left out. Bytes are those of the
matrices alone, each read or written once a pass or product: the least that a machine with any cache has to move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from transformers import LlamaConfig, PreTrainedTokenizerBase

from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.values import encode_in_contexts
from sphere.models.batching import DEFAULT_TOKEN_BUDGET
from sphere.models.tokens import encode


@dataclass(frozen=True)
class Phase:
    """Operations and bytes of one phase of a batch."""

    model: float = 0.0
    """Operations in the model's own dtype."""
    float64: float = 0.0
    """Operations in float64."""
    bytes: float = 0.0
    """Read and written at least."""

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return (self.model + self.float64) / self.bytes


@dataclass(frozen=True)
class Lengths:
    """Sums of tokens over the texts (requests times contexts) of a batch, as the library runs them."""

    requests: int
    texts: int
    whole: int
    """Tokens of the texts, without the last token of the target."""
    prompts: int
    """Of these, up to and with the subject's last token."""
    targets: int
    clean: int
    """Tokens of one pass over the texts and the prompts of the KL divergence, in which a beginning is run once."""
    before: int
    """Of these, those before a subject's last token."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest], contexts: Contexts) -> Lengths:
        rows = [row for r in requests for row in encode_in_contexts(tokenizer, r, contexts, target=True)]
        anchors = [encode(tokenizer, r.subject, subject_end=len(r.subject)) for r in requests]
        texts = [row.ids[:-1] for row in rows] + [row.ids[: row.subject_last + 1] for row in anchors]
        before = [row.ids[: row.subject_last] for row in [*rows, *anchors]]
        return cls(
            requests=len(requests),
            texts=len(rows),
            whole=sum(len(row.ids) - 1 for row in rows),
            prompts=sum(row.subject_last + 1 for row in rows),
            targets=sum(len(row.ids) - row.target_start for row in rows),
            clean=len({ids[: i + 1] for ids in texts for i in range(len(ids))}),
            before=len({ids[: i + 1] for ids in before for i in range(len(ids))}),
        )

    @property
    def tails(self) -> int:
        """Tokens from the subject's last on: those that a change at the subject reaches."""
        return self.whole - self.prompts + self.texts


def layer_operations(config: LlamaConfig) -> int:
    """Of one token through one layer, forward; backward with respect to activations takes as many."""
    d, kv = config.hidden_size, config.hidden_size * config.num_key_value_heads // config.num_attention_heads
    return 2 * (2 * d * d + 2 * d * kv) + mlp_operations(config)


def mlp_operations(config: LlamaConfig) -> int:
    """Of one token through one layer's MLP, forward."""
    return 2 * 3 * config.hidden_size * config.intermediate_size


def value_operations(config: LlamaConfig, lengths: Lengths, *, layer: int, steps: int) -> float:
    """Of ``steps`` steps for every request, the last of them forward alone, with the clean pass before them."""
    each, head = layer_operations(config), 2 * config.hidden_size * config.vocab_size
    upper = config.num_hidden_layers - 1 - layer
    n = lengths.requests  # of each the KL divergence takes one column more
    once = (lengths.clean * (layer + 2) + lengths.before * (upper - 1)) * each  # and the tails in the next layer
    forward = (lengths.tails + n) * upper * each + (lengths.targets + n) * head
    forward -= (lengths.tails - lengths.targets) * mlp_operations(config)  # of the last layer: those that nobody reads
    return once + (2 * steps - 1) * forward


def edit_operations(
    config: LlamaConfig, lengths: Lengths, *, layers: Sequence[int], steps: int, directions: int, kept: int
) -> dict[str, Phase]:
    """Phase -> what a batch that SPHERE edits after the first takes: AlphaEdit with a past, and the projection.

    ``kept`` of the d_in directions may be edited, the projection is away from ``directions``. The model has two bytes a
    parameter.
    """
    d_out, d_in, n = config.hidden_size, config.intermediate_size, lengths.requests
    batches = ceil(lengths.whole / DEFAULT_TOKEN_BUDGET)  # each reads the weights that it passes
    layer, head = layer_operations(config), 2 * d_out * config.vocab_size  # as many bytes: two a parameter
    above = (config.num_hidden_layers - 1 - layers[-1]) * layer + head
    # the first layer's keys need a pass from the bottom to the last edited layer, the others' one from the layer before
    passed = layers[-1] + 1 + sum(layers[-1] - below + 1 for below in layers[:-1])
    passes = passed * lengths.prompts * layer_operations(config)
    system = 2 * d_in**2 * kept + 2 * d_in * kept**2 + 2 * kept**2 * n  # B^T M B and B^T K K^T B
    solve = kept**3 / 3 + 2 * kept**2 * n  # Cholesky, and two triangular solves
    update = 2 * d_in * kept * n * 2 + 2 * d_out * d_in * n  # B^T K, B X, and R (B X)^T
    past = 2 * d_in**2 * n
    read = batches * (config.num_hidden_layers * layer + (2 * steps - 1) * above)  # forward, and all but once backward
    walked = batches * passed * layer
    walked += 3 * len(layers) * 8 * d_in**2  # M, K K^T and their sum
    solved = 8 * (d_in * kept + d_in**2 + 3 * kept**2 + d_out * d_in)  # basis, M, system, factor and its use, dW
    projected = 8 * (2 * d_out * d_in + d_in * directions)
    measured = 4 * d_out * d_in + 8 * d_out**2
    return {
        "targets": Phase(model=value_operations(config, lengths, layer=layers[-1], steps=steps), bytes=read),
        "keys": Phase(model=passes, float64=len(layers) * past, bytes=walked),
        "solve": Phase(float64=len(layers) * (system + solve + update), bytes=len(layers) * solved),
        "projection": Phase(
            float64=len(layers) * projection_operations(d_out, d_in, directions), bytes=len(layers) * projected
        ),
        "energy": Phase(model=len(layers) * d_out**2 * d_in, bytes=len(layers) * measured),  # half a Gram product
    }


def projection_operations(d_out: int, d_in: int, directions: int) -> float:
    """dW U, and that by U^T."""
    return 4 * d_out * d_in * directions
