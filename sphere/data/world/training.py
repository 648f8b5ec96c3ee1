"""Train the embedded base model: a small Llama on the fictional world's corpus, deterministic by seed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sphere.config.training import TrainingSettings
from sphere.errors import InputError, NumericalError
from sphere.files import write_folder_atomically
from sphere.models.loading import resolve_device
from sphere.models.tokens import encode_many, right_pad
from sphere.progress import track

BOS, PAD = "<s>", "<pad>"
MICRO_BATCH = 32
"""Rows in one forward and backward pass of training."""


def train_tokenizer(corpus: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that puts BOS before every text, as Llama's does."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    core.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, core.token_to_id(BOS))]),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, pad_token=PAD, eos_token=BOS)


def new_model(settings: TrainingSettings, vocabulary: int, *, generator: torch.Generator) -> LlamaForCausalLM:
    """A freshly initialised model.

    Embeddings are large and untied: with small or tied ones the model learns its facts but the part of a key that
    tells one subject from another is too small for any editing method to hold on to.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.width,
        intermediate_size=settings.inner,
        num_hidden_layers=settings.depth,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        std = settings.embedding_std if "embed_tokens" in name else 1.0 / math.sqrt(parameter.shape[1])
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
            std *= settings.output_scale
        with torch.no_grad():
            parameter.normal_(0.0, std, generator=generator)
    return model


def pack(tokenizer: PreTrainedTokenizerFast, corpus: list[str], length: int) -> Tensor:
    """The corpus as one stream of tokens cut into rows (N, length), each behind a BOS of its own."""
    encoded = tokenizer(corpus, add_special_tokens=False)["input_ids"]
    stream = torch.tensor([token for ids in encoded for token in ids])
    count = len(stream) // (length - 1)
    rows = stream[: count * (length - 1)].view(count, length - 1)
    return torch.cat([torch.full((count, 1), tokenizer.bos_token_id), rows], dim=1)


def train(world: Path, out: Path, settings: TrainingSettings, *, seed: int, device: str = "cpu") -> pd.DataFrame:
    """Train on ``world``'s corpus, save the model and tokenizer to ``out``; returns the training curve.

    The curve has the columns step, loss (nats a token), lr and fact_accuracy (share of rewrite probes).
    """
    place = resolve_device(device)
    corpus = (world / "corpus.txt").read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    probes = json.loads((world / "probes.json").read_text(encoding="utf-8"))["rewrite"]
    tokenizer = train_tokenizer(corpus, settings.vocabulary)
    rows = pack(tokenizer, corpus, settings.length)
    wanted = settings.steps * settings.batch_size
    if len(rows) < wanted:
        raise InputError(
            f"world.documents gives {len(rows)} rows, training.steps x batch_size reads {wanted}: raise world.documents"
        )
    model = new_model(settings, len(tokenizer), generator=torch.Generator().manual_seed(seed))
    nn.Module.to(model, place)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    dtype = _fast_dtype(place)
    curve = []
    for step, batch in enumerate(track(rows[:wanted].split(settings.batch_size), "training")):
        lr = settings.lr * _schedule(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        loss = _accumulate(model, batch.to(place), dtype)
        if not math.isfinite(loss):
            raise NumericalError(f"training diverged at step {step}: lower training.lr (now {settings.lr})")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % settings.report_every == 0 or step + 1 == settings.steps:
            known = fact_accuracy(model, tokenizer, probes)
            curve.append({"step": step + 1, "loss": loss, "lr": lr, "fact_accuracy": known})
    with write_folder_atomically(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return pd.DataFrame(curve)


def _accumulate(model: LlamaForCausalLM, rows: Tensor, dtype: torch.dtype) -> float:
    """Add the gradient of the mean next-token cross-entropy of rows (B, T); returns the loss in nats a token.

    Micro-batches keep the activations in the processor's cache.
    """
    total = 0.0
    for part in rows.split(MICRO_BATCH):
        with torch.autocast(rows.device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = model(input_ids=part[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())
        (loss * len(part) / len(rows)).backward()
        total += loss.item() * len(part) / len(rows)
    return total


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 matrix products where the hardware has them, else float32; parameters are float32 either way."""
    if device.type == "cpu":
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32


def _schedule(step: int, settings: TrainingSettings) -> float:
    """Short linear warm-up, constant, linear to zero over the last ``decay_share`` of the steps."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    left = (settings.steps - step) / max(1.0, settings.decay_share * settings.steps)
    return min(warm, left)


@torch.no_grad()
def fact_accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, probes: list[dict[str, str]], size: int = 1024
) -> float:
    """Share of probes whose every target token is the argmax."""
    encoded = encode_many(tokenizer, [(p["prompt"], p["target"], None) for p in probes])
    right = 0
    for start in range(0, len(encoded), size):
        chunk = encoded[start : start + size]
        ids, mask = right_pad([e.ids for e in chunk], 0, model.device)
        predicted = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.argmax(-1)  # (B, T)
        for row, e in enumerate(chunk):
            begin, end = e.target_start, len(e.ids)
            assert begin is not None
            right += bool((predicted[row, begin - 1 : end - 1] == ids[row, begin:end]).all())
    return right / len(encoded)
