"""Tiny random models and tokenizers for every test, made in seconds without network or files."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from workplace import copied, finished, reconfigured, whole_study, workplace

from sphere.config.world import WorldSettings
from sphere.data.world.people import create
from sphere.data.world.records import records as world_records

settings.register_profile("sphere", deadline=None)  # nothing is timed in a test: a busy machine is no failure
settings.load_profile("sphere")

# Fixtures: one run of the smoke study serves all tests.
__all__ = ["copied", "finished", "reconfigured", "whole_study", "workplace"]

FAMILIES = (
    *("llama", "qwen2", "qwen3", "mistral", "phi3", "smollm3", "granite", "olmo2", "gemma2", "gemma3_text"),
    *("gpt2", "gptj", "gpt_neox"),
)
WINDOWED = ("mistral", "phi3", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text")
"""Families whose layers can see a window only."""

TEXTS = (
    "The mother tongue of Ada Lovelace is English.",
    "Ada Lovelace lives in the city of London, and Emil Zátopek in Prague.",
    "What is the profession of Emil Zátopek? He is a runner in the new city of Old York.",
    "The capital of France is Paris; the capital of Italy is Rome, not New York City.",
    "nq question: who plays the violin in the orchestra of Vienna?",
    "Łódź and São Paulo are cities; 東京 is one too. {| class = table |}",
)

ModelMaker = Callable[..., PreTrainedModel]
TokenizerMaker = Callable[..., PreTrainedTokenizerFast]


@cache
def _trained(add_bos: bool) -> str:
    """The JSON of a byte-level BPE tokenizer of 384 tokens trained on ``TEXTS``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer.to_str()


def new_tokenizer(add_bos: bool) -> PreTrainedTokenizerFast:
    """A fresh fast tokenizer without padding token; BOS or not, the same vocabulary."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(add_bos)), bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="session")
def tiny_tokenizer() -> TokenizerMaker:
    return new_tokenizer


def _config(family: str, vocab: int, **own: Any) -> PretrainedConfig:
    special = {"bos_token_id": 0, "eos_token_id": 1}
    llama_like: dict[str, Any] = {
        "llama": (LlamaConfig, {}),
        "qwen2": (Qwen2Config, {}),
        "qwen3": (Qwen3Config, {"head_dim": 8}),
        "mistral": (MistralConfig, {"sliding_window": 6}),
        "phi3": (Phi3Config, {"pad_token_id": None, "sliding_window": 6}),
        "smollm3": (SmolLM3Config, {"pad_token_id": None, "no_rope_layer_interval": 2}),
        "granite": (GraniteConfig, {"residual_multiplier": 0.3, "logits_scaling": 4.0, "attention_multiplier": 0.4}),
        "olmo2": (Olmo2Config, {"pad_token_id": None}),
        "gemma2": (Gemma2Config, {"head_dim": 8}),
        "gemma3_text": (Gemma3TextConfig, {"head_dim": 8, "sliding_window": 6, "sliding_window_pattern": 2}),
    }
    if family in llama_like:
        kind, more = llama_like[family]
        return kind(
            vocab_size=vocab,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=False,
            **special | more | own,
        )
    if family == "gpt_neox":
        return GPTNeoXConfig(
            vocab_size=vocab,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=128,
            **special,
        )
    kind = {"gpt2": GPT2Config, "gptj": GPTJConfig}[family]
    rotary = {"rotary_dim": 4} if family == "gptj" else {}
    return kind(vocab_size=vocab, n_embd=32, n_layer=4, n_head=4, n_inner=64, n_positions=128, **rotary, **special)


def new_model(family: str, vocab: int, seed: int = 0, **own: Any) -> PreTrainedModel:
    """A fresh float32 CPU model of 4 layers and width 32, for evaluation; ``own`` are keys of its configuration.

    Weights are drawn wide (standard deviation 0.2), so that predictions differ clearly between inputs.
    """
    config = _config(family, vocab, **own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_model() -> ModelMaker:
    return new_model


@pytest.fixture(scope="session")
def own_records() -> list[dict[str, Any]]:
    """100 records in CounterFact's own schema, about fictional people: for what needs no real dataset."""
    world = create(WorldSettings(people=100, tuning_people=0, qa_people=20))
    counterfact, _ = world_records(world, "test")
    return counterfact


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of real dataset samples (SPHERE_SAMPLE_DATA, or ../shared/data beside the repository)."""
    folder = Path(os.environ.get("SPHERE_SAMPLE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real records at {folder}: `python tests/samples.py FOLDER` gets them; set SPHERE_SAMPLE_DATA")
    return folder
