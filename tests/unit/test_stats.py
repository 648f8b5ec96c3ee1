"""Key second moments against one document at a time, and what must not change them."""

from __future__ import annotations

from pathlib import Path

import plain
import pytest
import torch
from conftest import FAMILIES, TEXTS, ModelMaker, TokenizerMaker
from torch import Tensor

from sphere.editing import stats
from sphere.editing.stats import Statistics, collect_statistics, read_documents
from sphere.errors import InputError, NumericalError
from sphere.models.adapters import adapter
from sphere.models.hooks import capture_inputs

DOCUMENTS = [text[start:] for text in TEXTS for start in (0, 9)]  # 12: the last may be held out


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_are_those_of_the_documents_one_by_one(
    family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(family != "gpt2")
    parts = adapter(tiny_model(family, len(tokenizer)).double())
    got = collect_statistics(parts, tokenizer, DOCUMENTS, [2, 0], max_length=20, probe_keys=5)
    for layer in (0, 2):
        every = torch.cat([plain.keys(parts, tokenizer, text, layer, 20) for text in DOCUMENTS])
        assert len(every) == got.tokens + got.held_out
        seen, held = every[: got.tokens], every[got.tokens :]
        torch.testing.assert_close(got.second_moments[layer], seen.T @ seen / got.tokens, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(got.probe_keys[layer], held[:5].T)


def test_batches_and_dtypes(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    one = collect_statistics(adapter(model), tokenizer, DOCUMENTS, [1], token_budget=1)
    many = collect_statistics(adapter(model), tokenizer, DOCUMENTS, [1])
    torch.testing.assert_close(one.second_moments[1], many.second_moments[1], rtol=1e-5, atol=1e-6)
    assert many.second_moments[1].dtype == torch.float64
    half = collect_statistics(adapter(model.bfloat16()), tokenizer, DOCUMENTS, [1])
    torch.testing.assert_close(half.second_moments[1], many.second_moments[1], rtol=0.1, atol=0.1)


def test_long_documents_are_cut_into_pieces_and_no_token_is_left(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(False)
    parts = adapter(tiny_model("gpt2", len(tokenizer)))  # 128 positions, and a table of them
    text = "Ada Lovelace " * 200
    size = len(tokenizer(text)["input_ids"])
    assert size > 3 * 128
    found = collect_statistics(parts, tokenizer, [text], [0], probe_keys=0)
    assert (found.tokens, found.held_out) == (size, 0)
    assert found.summary == f"key statistics from {size} tokens, 0 kept out of them"


def test_a_token_that_the_model_lacks_is_named(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    parts = adapter(tiny_model("llama", len(tokenizer)))
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(InputError, match=r"has the token '<new>' \(id 384\), which the model lacks"):
        collect_statistics(parts, tokenizer, ["Ada Lovelace", "Ada <new> Lovelace"], [0])


CORPORA = {
    "blank lines": ("c.txt", "One\ntwo.\n\nThree.\n", ["One\ntwo.", "Three."]),
    "lines with a space": ("c.txt", "One\ntwo.\n \nThree.\n\t\n", ["One\ntwo.", "Three."]),
    "a line each": ("c.txt", "One two.\nThree.\n", ["One two.", "Three."]),
    "JSONL": ("c.jsonl", '{"text": "One\\n\\ntwo."}\n\n{"id": 7, "text": "Three."}\n', ["One\n\ntwo.", "Three."]),
}


@pytest.mark.parametrize("kind", CORPORA)
def test_a_corpus_comes_in_several_kinds(kind: str, tmp_path: Path) -> None:
    name, content, documents = CORPORA[kind]
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_documents(tmp_path / name) == documents


@pytest.mark.parametrize(
    ("content", "message"), [("{", "line 2 is not JSON"), ('{"a": "x"}', "line 2 has no text"), ("7", "line 2 has no")]
)
def test_a_torn_line_of_jsonl_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n' + content + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_documents(tmp_path / "c.jsonl")


def test_out_of_memory_counts_no_document_twice(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second layer's product fails once, when the first layer's is done."""
    tokenizer = tiny_tokenizer(True)
    parts = adapter(tiny_model("llama", len(tokenizer)))
    expected = collect_statistics(parts, tokenizer, DOCUMENTS, [0, 1])
    multiply, calls = Tensor.__matmul__, []

    def failing(self: Tensor, other: Tensor) -> Tensor:
        if self.ndim == 2 and self.shape[0] == 64 and other.shape == self.T.shape:  # k.T @ k
            calls.append(self.shape)
            if len(calls) == 2:
                raise torch.OutOfMemoryError("out of memory")
        return multiply(self, other)

    monkeypatch.setattr(Tensor, "__matmul__", failing)
    got = collect_statistics(parts, tokenizer, DOCUMENTS, [0, 1])
    assert len(calls) > 2
    for layer in (0, 1):
        torch.testing.assert_close(got.second_moments[layer], expected.second_moments[layer], rtol=1e-5, atol=1e-6)


def test_nothing_is_held_out_of_few_documents(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    got = collect_statistics(adapter(tiny_model("llama", len(tokenizer))), tokenizer, DOCUMENTS[:9], [0])
    assert got.probe_keys[0].shape == (64, 0)


def test_statistics_survive_a_file(tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    got = collect_statistics(adapter(tiny_model("llama", len(tokenizer))), tokenizer, DOCUMENTS, [0, 2])
    got.save(tmp_path / "statistics.safetensors")
    back = Statistics.load(tmp_path / "statistics.safetensors")
    assert back.tokens == got.tokens
    for layer in (0, 2):
        assert torch.equal(back.second_moments[layer], got.second_moments[layer])
        assert torch.equal(back.probe_keys[layer], got.probe_keys[layer])


@pytest.mark.parametrize("family", FAMILIES)
def test_output_moments_are_those_of_the_loss_s_gradients(
    family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """g against the weight's own gradient, the sum of g k^T over tokens; S document by document; C as before."""
    tokenizer = tiny_tokenizer(family != "gpt2")
    model = tiny_model(family, len(tokenizer)).double()
    parts = adapter(model)
    monkeypatch.setattr(stats, "CHUNK", 3)
    got = collect_statistics(parts, tokenizer, DOCUMENTS, [2, 0], max_length=20, gradients=True)
    plainly = collect_statistics(parts, tokenizer, DOCUMENTS, [2, 0], max_length=20)
    found = [tokenizer(text)["input_ids"] for text in DOCUMENTS]
    rows = [ids[i : i + 20] for ids in found for i in range(0, len(ids), 20)]
    expected = {i: 0.0 for i in (0, 2)}
    for row in rows[: len(rows) - len(rows) // 10]:  # the others are kept out
        if len(row) == 1:  # no next token
            continue
        found = stats.output_gradients(parts, [row], [0, 2])
        ids = torch.tensor([row])
        weights = [parts.parameter(i).requires_grad_() for i in (0, 2)]
        with capture_inputs({i: parts.projection(i) for i in (0, 2)}) as keys:
            loss = model(ids, labels=ids).loss * (len(row) - 1)
        for layer, slope in zip((0, 2), torch.autograd.grad(loss, weights), strict=True):
            slope = slope.T if parts.family.transposed else slope
            torch.testing.assert_close(
                found[layer].T @ keys[layer][0], slope, atol=1e-5, rtol=1e-3
            )  # Hugging Face: float32
            expected[layer] = expected[layer] + found[layer].T @ found[layer]
        for weight in weights:
            weight.requires_grad_(False)
    got.save(tmp_path / "statistics")
    got = Statistics.load(tmp_path / "statistics")
    for layer in (0, 2):
        torch.testing.assert_close(got.output_moments[layer], expected[layer] / got.tokens)
        torch.testing.assert_close(got.second_moments[layer], plainly.second_moments[layer])
    assert plainly.output_moments == {}


def test_what_is_not_finite_is_named(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    model.get_input_embeddings().weight[5:] = float("inf")
    with pytest.raises(NumericalError, match="key statistics of layer 1 are not finite"):
        collect_statistics(adapter(model), tokenizer, DOCUMENTS, [1])


def test_no_text_is_refused(tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(False)
    parts = adapter(tiny_model("gpt2", len(tokenizer)))
    for documents in ([], [""]):
        with pytest.raises(InputError, match="has no text"):
            collect_statistics(parts, tokenizer, documents, [0])


def test_documents_are_separated_by_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("one\ntwo\n\n\n\nthree\n", encoding="utf-8")
    assert read_documents(path) == ["one\ntwo", "three"]
    path.write_text(" \n\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no text"):
        read_documents(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        read_documents(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_documents(tmp_path / "nothing.txt")
