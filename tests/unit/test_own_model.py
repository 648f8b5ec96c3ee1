"""A model that nobody has settings for: checked, and its settings found, as a file that a study takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from conftest import FAMILIES, ModelMaker, TokenizerMaker
from safetensors.torch import load_file, save_file

from sphere import cli
from sphere.config.model import EditSettings, StatisticsSettings
from sphere.config.tuning import LocateSettings
from sphere.config.values import ValueSettings
from sphere.editing.inspection import inspect
from sphere.editing.methods import method_names, resolve
from sphere.editing.stats import read_documents
from sphere.errors import InputError
from sphere.models.loading import LoadedModel
from sphere.study import locate as module
from sphere.study.configuration import load_study
from sphere.study.tune import try_on

EDITS = 8


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: ModelMaker,
    tiny_tokenizer: TokenizerMaker,
    own_records: list[dict[str, Any]],
) -> Path:
    folder = tmp_path_factory.mktemp("own")
    tokenizer = tiny_tokenizer(True)
    tiny_model("llama", len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "requests.json").write_text(json.dumps(own_records[:EDITS]), encoding="utf-8")
    texts = [text for record in own_records for text in record["generation_prompts"]]
    (folder / "corpus.txt").write_text("\n\n".join(texts), encoding="utf-8")
    return folder


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


# ------------------------------------------------------------------------------------------------------- check


@pytest.mark.parametrize("family", FAMILIES)
def test_check_says_of_every_family_what_it_is_and_costs(
    family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(False)
    model = tiny_model(family, len(tokenizer))
    found = {each.what: each.found for each in inspect(LoadedModel(model, tokenizer))}
    assert found["architecture"].startswith(f"{family}: 4 layers, width 32, MLP 64, ")
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in found["architecture"]
    ways = {"granite": "times 0.3", "olmo2": "behind", "gemma2": "behind", "gemma3_text": "behind"}
    assert ways.get(family, "as it is") in found["residual stream"]
    windows = {"mistral": "4 of 4 layers", "phi3": "4 of 4 layers", "gemma2": "2 of 4", "gemma3_text": "2 of 4"}
    assert windows.get(family, "every layer sees the whole text") in found["attention"]
    assert found["an edit"].startswith("about ")


def test_check_ends_with_status_0_or_2(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", files / "model") == 0
    printed = capsys.readouterr()
    assert printed.out.endswith(f"{files / 'model'} can be edited\n")
    assert run("check", files / "model", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["what"] == "architecture"
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (files / "model").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][0, 0] = torch.inf
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert run("check", broken) == 2
    said = capsys.readouterr()
    assert "not finite" in said.out
    line = f"sphere: {broken} cannot be edited: weights: model.layers.0.mlp.down_proj.weight has entries that are not"
    assert said.err.startswith(line)


def test_a_tokenizer_of_another_model_is_found_out(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """Tokens beyond the embedding are counted, and refused in a prompt only."""
    tokenizer = tiny_tokenizer(True)
    tokenizer.add_tokens(["<new>", "<newer>"])
    found = {each.what: each for each in inspect(LoadedModel(tiny_model("llama", 384), tokenizer))}
    assert "2 tokens that the model lacks, such as '<new>'" in found["tokenizer"].found
    assert "no PAD (none is needed)" in found["tokenizer"].found
    assert not found["tokenizer"].problem


# ------------------------------------------------------------------------------------------------------ locate


def test_locate_says_which_layers_and_why(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, inputs = tmp_path / "layers.csv", (files / "model", files / "requests.json")
    options = ("--out", out, "--corpus", files / "corpus.txt", "--edits", 3, "--family", "success", "--size", 2)
    assert run("locate", *inputs, *options) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith("edit layers ")
    assert "tracing 3 facts: done" in printed.err
    effects, sets = pd.read_csv(out), pd.read_csv(tmp_path / "layers.sets.csv")
    assert list(effects) == ["layer", "effect", "stderr", "n"]
    assert (effects["layer"].tolist(), set(effects["n"])) == ([0, 1, 2, 3], {3})
    assert list(sets) == ["layers", "efficacy", "generalization", "specificity", "score"]
    assert sets["layers"].tolist() == ["0,1", "1,2"]
    assert {path.suffix for path in tmp_path.glob("layers.*")} == {".csv", ".png", ".pdf", ".svg"}
    assert run("locate", *inputs, "--size", 4, "--out", out) == 2
    assert "all but the last can be edited" in capsys.readouterr().err


def test_what_was_traced_is_kept_if_the_first_batches_fail(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any, **__: Any) -> pd.DataFrame:
        raise InputError("the text is too short")

    monkeypatch.setattr(module, "first_batches", failing)
    inputs, out = (files / "model", files / "requests.json"), tmp_path / "layers.csv"
    assert run("locate", *inputs, "--corpus", files / "corpus.txt", "--edits", 3, "--size", 2, "--out", out) == 2
    assert "the text is too short" in capsys.readouterr().err
    assert pd.read_csv(out)["layer"].tolist() == [0, 1, 2, 3]


def test_a_study_locates_by_its_settings_with_its_own_layers_among_the_sets(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def watched(*inputs: Any, **settings: Any) -> pd.DataFrame:
        asked.append(settings)
        return try_on(*inputs, **settings)

    monkeypatch.setattr(module, "try_on", watched)
    values = ValueSettings(steps=3, lr=0.25, weights="pretrained")

    def located(records: int) -> None:
        module.locate_for_study(
            files / "model",
            files / "requests.json",
            files / "corpus.txt",
            locate=LocateSettings(records=records, method="memit"),
            hyperparameters={"second_moment_weight": 5.0},
            editing=EditSettings(layers=(0, 2), device="cpu", values=values),
            text=StatisticsSettings(documents=4),
            out_effects=tmp_path / "effects.csv",
            out_sets=tmp_path / "sets.csv",
        )

    with pytest.raises(InputError, match=r"has 8 usable records, the study locates layers on 9"):
        located(9)
    located(3)
    effects, sets = pd.read_csv(tmp_path / "effects.csv"), pd.read_csv(tmp_path / "sets.csv")
    assert (list(effects), list(sets)) == (list(module.EFFECTS), list(module.SETS_TRIED))
    assert effects["layer"].tolist() == [0, 1, 2, 3]
    assert (set(effects["n"]), set(effects["window"])) == ({3}, {1})
    assert sets["layers"].tolist() == ["0,1", "0,2", "1,2"]
    assert sets["edited"].tolist() == [False, True, False]
    assert set(zip(sets["method"], sets["n"], strict=True)) == {("memit", 3)}
    assert [settings["layers"] for settings in asked] == [(0, 1), (0, 2), (1, 2)]
    for settings in asked:
        assert settings["values"] == values.model_copy(update={"weights": "current"})
        assert settings["hyperparameters"] == {"second_moment_weight": 5.0}
        assert (settings["batch_size"], settings["family"]) == (3, "accuracy")


# -------------------------------------------------------------------------------------------------------- tune


def tune(files: Path, out: Path, method: str, *more: object) -> int:
    inputs = ("--corpus", files / "corpus.txt", "--layers", "1,2", "--family", "success", "--batch-size", 4)
    return run("tune", files / "model", files / "requests.json", "--method", method, "--out", out, *inputs, *more)


def test_tune_writes_a_file_that_a_study_takes_as_it_is(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "config" / "models" / "mine.yaml"
    out.parent.mkdir(parents=True)
    for method in ("memit", "memit+sphere"):
        assert tune(files, out, method, "--trials", 2) == 0, capsys.readouterr().err
    study = {
        "name": "own",
        "models": ["mine"],
        "datasets": {"counterfact": {"source": "path", "path": str(files / "requests.json")}},
        "methods": ["memit", "memit+sphere"],
        "checkpoints": [4],
        "batch_size": 4,
        "corpus": {"item": "wikipedia"},
    }
    (tmp_path / "config" / "studies").mkdir()
    (tmp_path / "config" / "sources.tsv").write_bytes(Path("config/sources.tsv").read_bytes())
    (tmp_path / "config" / "studies" / "own.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    whole = load_study(tmp_path / "config" / "studies" / "own.yaml")
    model = whole.models["mine"]
    assert (model.layers, model.shape.depth, model.shape.vocabulary) == ((1, 2), 4, 384)
    for method in study["methods"]:
        trials = pd.read_csv(out.with_name(f"mine.{method}.trials.csv"))
        best = trials.loc[trials["score"].idxmax()]
        settings = whole.method("mine", method).hyperparameters
        for key in resolve(method).search:
            found = settings["values"][key[7:]] if key.startswith("values.") else settings[key]
            assert found == pytest.approx(best[key]), key
        assert len(trials) == 2
        assert trials["second_moment_weight"][0] == 15_000, "the defaults are tried first"


def test_tune_finds_the_layers_that_locate_recommends(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, inputs = tmp_path / "mine.yaml", (files / "model", files / "requests.json")
    options = ("--corpus", files / "corpus.txt", "--family", "success", "--edits", 3)
    assert run("locate", *inputs, *options, "--out", tmp_path / "layers.csv") == 0, capsys.readouterr().err
    said = capsys.readouterr().out.splitlines()[-1]
    for method in ("memit", "ft"):
        assert run("tune", *inputs, *options, "--method", method, "--out", out, "--trials", 1) == 0
        printed = capsys.readouterr()
        wanted = said if method == "memit" else f"{said.partition(':')[0]}: {out} has them already"
        assert printed.out.splitlines()[0] == wanted
        assert ("tracing 3 facts" in printed.err) == (method == "memit")
    layers = said.removeprefix("edit layers ").partition(":")[0]
    assert ",".join(map(str, yaml.safe_load(out.read_text(encoding="utf-8"))["layers"])) == layers
    for method in ("memit", "ft"):
        trials = pd.read_csv(tmp_path / f"mine.{method}.trials.csv", dtype={"layers": str})
        assert trials["layers"].tolist() == [layers]
    for name in ("layers.csv", "layers.sets.csv"):
        assert (tmp_path / f"mine.{name}").read_text() == (tmp_path / name).read_text()


def test_methods_of_a_file_share_their_text(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A method tuned without text says nothing of how much there is; a later one with other text is refused."""
    out, inputs = tmp_path / "mine.yaml", (files / "model", files / "requests.json")
    few = ("--family", "success", "--edits", 3, "--trials", 1)
    assert run("tune", *inputs, "--method", "ft", "--layers", "1,2", *few, "--out", out) == 0
    assert "statistics" not in yaml.safe_load(out.read_text(encoding="utf-8"))
    assert tune(files, out, "memit", "--trials", 1) == 0, capsys.readouterr().err
    documents = yaml.safe_load(out.read_text(encoding="utf-8"))["statistics"]["documents"]
    assert documents == len(read_documents(files / "corpus.txt"))
    by_hand = out.read_text(encoding="utf-8").replace(
        f"documents: {documents}", f"documents: {documents}, max_length: 64"
    )
    out.write_text(by_hand, encoding="utf-8")
    assert tune(files, out, "memit", "--trials", 1) == 0, capsys.readouterr().err
    assert yaml.safe_load(out.read_text(encoding="utf-8"))["statistics"] == {"documents": documents, "max_length": 64}
    other = tmp_path / "other.txt"
    other.write_text("One text.\n\nAnother one.", encoding="utf-8")
    assert run("tune", *inputs, "--method", "memit", "--corpus", other, *few, "--out", out) == 2
    assert f"statistics.documents is {documents}, this --corpus has 2" in capsys.readouterr().err


def test_a_file_of_another_model_is_not_written_over(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.yaml"
    assert tune(files, out, "ft", "--trials", 1) == 0
    before = out.read_bytes()
    assert run("tune", files / "model", files / "requests.json", "--method", "ft", "--out", out, "--layers", "0") == 2
    assert "is of" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "x.yml"), "name a file NAME.yaml"),
        (("--family", "speed"), "choose accuracy, success or token_accuracy"),
        (("--corpus",), "requires an argument"),
        (("--method", "memmit"), "did you mean 'memit'"),
    ],
)
def test_bad_options_are_named(
    options: tuple[str, ...], message: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(files, tmp_path / "mine.yaml", "memit", *options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_method_has_something_to_search_and_every_value_is_one_of_its_own() -> None:
    for name in method_names():
        method = resolve(name)
        assert method.search, name
        for key, values in method.search.items():
            for value in values:
                resolve(name, hyperparameters={key: value})
