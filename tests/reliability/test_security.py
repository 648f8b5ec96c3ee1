"""What the code never does with a file, a name or a secret: read from its syntax, and tried."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ModelMaker, TokenizerMaker
from workplace import ROOT

from sphere.errors import InputError
from sphere.models.loading import load
from sphere.plain_yaml import read_yaml
from sphere.study.configuration import load_study

SOURCES = [*(ROOT / "sphere").rglob("*.py"), *(ROOT / "workflow" / "scripts").glob("*.py")]
RULES = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]


def calls() -> Iterator[tuple[str, str, dict[str, str]]]:
    """(file, dotted name, keywords as written) of every call in the sources."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                keywords = {keyword.arg or "**": ast.unparse(keyword.value) for keyword in node.keywords}
                yield path.name, ast.unparse(node.func), keywords


def imports() -> set[str]:
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    return found


def test_nothing_that_runs_what_it_reads_is_imported_or_called() -> None:
    assert not imports() & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    refused = r"(eval|exec|compile|os\.system|os\.popen|yaml\.\w*load\w*|.*read_pickle)"
    assert [(file, name) for file, name, _ in calls() if re.fullmatch(refused, name)] == []


def test_tensors_are_loaded_without_pickle() -> None:
    for file, name, keywords in calls():
        where = f"{file}: {name}"
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", where
        if name.startswith("AutoModel") and name.endswith("from_pretrained"):
            assert keywords["use_safetensors"] == "True", where
        assert keywords.get("allow_pickle", "False") == "False", where
        assert keywords.get("trust_remote_code", "False") in ("False", "trust_remote_code"), where


def test_no_user_text_reaches_a_shell_or_leaves_its_folder() -> None:
    for file, name, keywords in calls():
        where = f"{file}: {name}"
        assert keywords.get("shell", "False") == "False", where
        if name.endswith((".extract", ".extractall", "unpack_archive")):
            assert keywords.get("filter") == "'data'", where
    for path in RULES:
        for block in re.findall(r"shell:\n((?:\s+\".*\"\n)+)", path.read_text(encoding="utf-8")):
            for placeholder in re.findall(r"\{([^}]*)\}", block):
                assert placeholder.endswith(":q"), f"{path.name}: {{{placeholder}}} is not quoted"


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_model_of_pickled_weights_is_refused_and_not_unpickled(
    tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    tiny_model("llama", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(Payload(tmp_path / "ran"), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load(tmp_path / "model", device="cpu")
    assert not (tmp_path / "ran").exists()


def test_code_in_a_model_folder_runs_only_where_it_is_trusted(
    tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer, folder = tiny_tokenizer(True), tmp_path / "model"
    tiny_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(settings))
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Own: pass\nclass Model: pass\n"
    (folder / "own.py").write_text(code)
    with pytest.raises(InputError, match="cannot be loaded"):
        load(folder, device="cpu")
    assert not (tmp_path / "ran").exists()
    assert "warning" not in capsys.readouterr().err
    with pytest.raises(InputError):
        load(folder, device="cpu", trust_remote_code=True)  # it runs, and is no model
    assert "warning: " in capsys.readouterr().err


NAMES = ["..", "../out", "/etc", "a/b", ".hidden", "", "a\n", "report.html", "x" * 300, "sphere@eta=0.3 #/../../out"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: smoke", "name: {}"),
        ("models: [smoke]", "models: [{}]"),
        ("zsre: {source: world}", "{}: {{source: path, path: z}}"),
        ("methods: [memit, sphere]", "methods: [{}]"),
    ],
    ids=["study", "model", "dataset", "method"],
)
def test_names_that_are_folders_stay_in_the_results(tmp_path: Path, old: str, new: str, name: str) -> None:
    text = (ROOT / "config" / "studies" / "smoke.yaml").read_text(encoding="utf-8")
    (tmp_path / "studies").mkdir()
    path = tmp_path / "studies" / "mine.yaml"
    assert old in text
    path.write_text(text.replace(old, new.format(json.dumps(name))), encoding="utf-8")
    with pytest.raises(InputError):
        load_study(path)


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"a: !!python/object/apply:os.mkdir [{tmp_path / 'ran'}]\n")
    with pytest.raises(InputError, match="is not YAML: could not determine a constructor"):
        read_yaml(path)
    assert not (tmp_path / "ran").exists()
