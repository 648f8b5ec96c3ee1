"""Text meets token positions: found from offsets, the same with a BOS, an EOS, any padding side and any script."""

from __future__ import annotations

import pytest
import torch
from conftest import TEXTS, TokenizerMaker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE, WordLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from sphere.errors import InputError
from sphere.models.tokens import encode, encode_many, join, right_pad

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=12)


@pytest.mark.parametrize("add_bos", [True, False])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=words, subject=words, after=words, target=words)
def test_positions_cut_the_text_where_it_was_joined(
    add_bos: bool, tiny_tokenizer: TokenizerMaker, before: str, subject: str, after: str, target: str
) -> None:
    tokenizer = tiny_tokenizer(add_bos)
    prompt = f"{before} {subject} {after}"
    end = len(before) + 1 + len(subject)
    got = encode(tokenizer, prompt, target=target, subject_end=end)
    assert got.subject_last is not None
    assert got.target_start is not None
    assert tokenizer.decode(list(got.ids), skip_special_tokens=True) == f"{prompt} {target}"
    assert tokenizer.decode(list(got.ids[got.target_start :])).strip() == target
    assert tokenizer.decode(list(got.ids[: got.target_start]), skip_special_tokens=True).rstrip(" ") == prompt
    upto = tokenizer.decode(list(got.ids[: got.subject_last + 1]), skip_special_tokens=True)
    assert upto == prompt[:end]


@pytest.mark.parametrize("add_bos", [True, False])
def test_padding_settings_and_company_change_nothing(add_bos: bool, tiny_tokenizer: TokenizerMaker) -> None:
    items = [(text, "New York City", 5) for text in TEXTS]
    plain = tiny_tokenizer(add_bos)
    alone = [encode(plain, prompt, target=target, subject_end=end) for prompt, target, end in items]
    odd = tiny_tokenizer(add_bos)
    odd.padding_side, odd.pad_token = "left", "</s>"
    assert encode_many(odd, items) == alone


def test_bos_moves_every_position_by_one(tiny_tokenizer: TokenizerMaker) -> None:
    with_bos = encode(tiny_tokenizer(True), "Ada is", target="English", subject_end=3)
    without = encode(tiny_tokenizer(False), "Ada is", target="English", subject_end=3)
    assert with_bos.ids[1:] == without.ids
    assert with_bos.subject_last == (without.subject_last or 0) + 1
    assert with_bos.target_start == (without.target_start or 0) + 1


def test_an_appended_eos_is_no_part_of_the_target(tiny_tokenizer: TokenizerMaker) -> None:
    plain = tiny_tokenizer(False)
    core = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    ending = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    assert ending("Ada")["input_ids"][-1] == 1
    for target in ("English", None):
        assert encode(ending, "Ada is", target=target, subject_end=3) == encode(
            plain, "Ada is", target=target, subject_end=3
        )


def test_a_target_s_own_leading_space_is_dropped(tiny_tokenizer: TokenizerMaker) -> None:
    assert join("Ada is", "  English ") == "Ada is English"
    tokenizer = tiny_tokenizer(True)
    assert encode(tokenizer, "Ada is", target=" English") == encode(tokenizer, "Ada is", target="English")


@pytest.mark.parametrize("target", ["", " ", "\n"])
def test_an_empty_target_is_refused(target: str, tiny_tokenizer: TokenizerMaker) -> None:
    with pytest.raises(InputError, match="target of prompt 'Ada is' is empty"):
        encode(tiny_tokenizer(True), "Ada is", target=target)


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
"""The pre-tokenizers of Llama-3 and Qwen2, as their tokenizer.json have them: a space never joins a number."""


def pre_tokenized(kind: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the pre-tokenizer of Llama-3 or Qwen2, or one of SentencePiece's style (Llama-2)."""
    if kind == "sentencepiece":
        core = Tokenizer(BPE(byte_fallback=False, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits(individual_digits=True)]
        )
        core.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = BpeTrainer(vocab_size=500, special_tokens=["<unk>", "<s>"], show_progress=False)
    else:
        core = Tokenizer(BPE())
        split = pre_tokenizers.Split(Regex(LLAMA3 if kind == "llama3" else QWEN2), "isolated")
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        core.decoder = decoders.ByteLevel()
        core.post_processor = processors.ByteLevel(trim_offsets=kind == "qwen2")
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator([*TEXTS, "When was it founded? 1969 1989 2001 196 9, 3rd (none)"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>" if kind == "sentencepiece" else None)


@pytest.mark.parametrize("target", ["1969", "9", "English", "New York City", "3rd", "(none)"])
@pytest.mark.parametrize("prompt", ["When was it founded?", "It was founded in", "The year is 1989,"])
@pytest.mark.parametrize("kind", ["llama3", "qwen2", "sentencepiece"])
def test_a_target_is_all_that_stands_behind_the_prompt(kind: str, prompt: str, target: str) -> None:
    """Also where the space in between is a token of its own, as before a number."""
    tokenizer = pre_tokenized(kind)
    got = encode(tokenizer, prompt, target=target)
    alone = tokenizer(prompt)["input_ids"]
    assert list(got.ids[: got.target_start]) == alone
    assert got.target_start == len(alone)
    assert tokenizer.decode(list(got.ids)) == f"{prompt} {target}"
    if target == "1969":
        own = tokenizer.convert_ids_to_tokens(list(got.ids[got.target_start :]))
        digits = ["1", "9", "6", "9"] if kind != "llama3" else ["196", "9"]
        assert own == ["▁" if kind == "sentencepiece" else "Ġ", *digits]


def word_tokenizer(unk: str | None) -> PreTrainedTokenizerFast:
    core = Tokenizer(WordLevel({"<unk>": 0, "Ada": 1, "is": 2}, unk_token=unk or "<none>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token=unk)


def test_a_target_without_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="cannot represent the target 'English'"):
        encode(word_tokenizer("<unk>"), "Ada is", target="English")
    encode(word_tokenizer("<unk>"), "Zoë is", target="Ada")  # in the prompt it does no harm


def test_a_subject_without_tokens_is_refused(tiny_tokenizer: TokenizerMaker) -> None:
    with pytest.raises(InputError, match="no token of 'Ada' lies in its subject"):
        encode(tiny_tokenizer(True), "Ada", subject_end=0)


def test_right_pad() -> None:
    ids, mask = right_pad([(5, 6, 7), (8,)], 9)
    assert torch.equal(ids, torch.tensor([[5, 6, 7], [8, 9, 9]]))
    assert torch.equal(mask, torch.tensor([[1, 1, 1], [1, 0, 0]]))
