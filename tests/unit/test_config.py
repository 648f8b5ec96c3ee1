"""Studies: what is read from YAML, and what every mistake is answered with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from sphere.config.machine import MachineSettings
from sphere.config.model import ModelConfig
from sphere.config.run import load_run
from sphere.config.study import StudyConfig
from sphere.config.world import WORLD_TASKS
from sphere.editing.methods import resolve
from sphere.errors import InputError
from sphere.study import config_reference
from sphere.study.configuration import Study, load_study

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
STUDIES = sorted(path.stem for path in (ROOT / "config" / "studies").glob("*.yaml"))
Change = Callable[[str, Callable[[dict[str, Any]], None]], str]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of config/ that a test may spoil."""
    return Path(shutil.copytree(ROOT / "config", tmp_path / "config"))


@pytest.fixture
def refusal(config: Path) -> Change:
    """Change a file of the smoke study and return what loading it is answered with."""

    def answer(file: str, change: Callable[[dict[str, Any]], None]) -> str:
        path = config / file
        data = yaml.safe_load(path.read_text())
        change(data)
        path.write_text(yaml.safe_dump(data))
        with pytest.raises(InputError) as caught:
            load_study("smoke", root=config)
        return str(caught.value)

    return answer


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_of_the_repository_is_valid(name: str) -> None:
    study = load_study(name, root=ROOT / "config")
    assert study.study.name == name
    assert list(study.models) == list(study.study.models)


def test_no_study_needs_torch_to_be_read() -> None:
    code = "import sys; from sphere.study.configuration import load_study; load_study('embedded')"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


STUDY, MODEL = "studies/smoke.yaml", "models/smoke.yaml"
MISTAKES: list[tuple[str, Callable[[dict[str, Any]], Any], list[str]]] = [
    (STUDY, lambda d: d.update(batchsize=4), ["unknown key 'batchsize'", "did you mean 'batch_size'?"]),
    (STUDY, lambda d: d["world"].update(poeple=3), ["world", "unknown key 'poeple'", "did you mean 'people'?"]),
    (MODEL, lambda d: d["values"].update(clamp=1), ["values", "unknown key 'clamp'", "clamp_norm_factor"]),
    (
        MODEL,
        lambda d: d["source"]["training"].update(widht=3),
        ["source.world.training", "unknown key 'widht'", "did you mean 'width'?"],
    ),
    (STUDY, lambda d: d.update(batch_size=0), ["batch_size", "(got 0)"]),
    (STUDY, lambda d: d.update(seeds=["one"]), ["seeds.0", "(got 'one')"]),
    (STUDY, lambda d: d.pop("checkpoints"), ["checkpoints: field required"]),
    (STUDY, lambda d: d.update(checkpoints=[8, 4]), ["checkpoints must ascend", "[8, 4]"]),
    (STUDY, lambda d: d.update(checkpoints=[4, 6]), ["checkpoints: 6 is not a multiple of batch_size 4"]),
    (STUDY, lambda d: d.update(checkpoints=[4000]), ["checkpoints: 4000 edits, but world.people x edits_per_person"]),
    (STUDY, lambda d: d.update(methods=["memit", "memit"]), ["methods", "repeats"]),
    (STUDY, lambda d: d.update(methods=["memti"]), ["methods", "unknown method 'memti'", "did you mean 'memit'?"]),
    (STUDY, lambda d: d.update(methods=["sphere@eta=0.3 #/../evil"]), ["methods.0: string should match", "#/../evil"]),
    (STUDY, lambda d: d.update(methods=["sphere@eta=0.3@eta=0.5"]), ["methods: ", "sets 'eta' twice: drop one"]),
    (STUDY, lambda d: d.update(name="downloads"), ["name: 'downloads' is the name of a folder of the results"]),
    (STUDY, lambda d: d.update(methods=["memit+spheer"]), ["spheer", "did you mean 'sphere'?"]),
    (STUDY, lambda d: d.update(models=["smoek"]), ["models", "'smoek' is not in", "did you mean 'smoke'?"]),
    (STUDY, lambda d: d["datasets"].update(zrse={"source": "world"}), ["no 'zrse'", "did you mean 'zsre'?"]),
    (STUDY, lambda d: d["datasets"].update(mine={"source": "path"}), ["datasets.mine", "needs path"]),
    (
        STUDY,
        lambda d: d["datasets"].update(mine={"source": "path", "path": "gone.json"}),
        ["datasets.mine.path: gone.json is not there"],
    ),
    (STUDY, lambda c: c["neutral"].update(file="gone.txt"), ["neutral.file: gone.txt is not there"]),
    (
        STUDY,
        lambda c: c["neutral"].update(passages=20_000),
        ["neutral.passages: 20000 texts behind the 300 of key statistics, but world.documents is 12000"],
    ),
    (
        STUDY,
        lambda c: c["strict"].update(forms=["chat"]),
        ["strict.forms.0", "'bare' or 'question'", "(got 'chat')"],
    ),
    (
        STUDY,
        lambda d: d["datasets"].update(mine={"source": "download", "item": "multi_conterfact"}),
        ["datasets.mine.item", "did you mean 'multi_counterfact'?"],
    ),
    (
        STUDY,
        lambda d: d["datasets"].update(mine={"source": "download", "item": "gsm8k"}),
        ["datasets.mine.item: 'gsm8k' is not a file of sources.tsv"],
    ),
    (
        STUDY,
        lambda d: d["datasets"]["zsre"].update(word_weights=["a", "b"]),
        ["datasets.zsre", "word_weights need references"],
    ),
    (STUDY, lambda d: d.update(corpus={"item": "wikipedai"}), ["corpus.item", "did you mean 'wikipedia'?"]),
    (STUDY, lambda d: d.update(corpus={"path": "nowhere.txt"}), ["corpus.path: nowhere.txt is not there"]),
    (STUDY, lambda d: d.update(corpus={}), ["corpus: give item, a row of sources.tsv, or path, a file of yours"]),
    (STUDY, lambda d: d["tasks"].update(names=["sphere_rte_zeroshto"]), ["did you mean 'sphere_rte_zeroshot'?"]),
    (STUDY, lambda d: d["tasks"].update(names=["gsm8"]), ["unknown task 'gsm8': did you mean 'gsm8k'?"]),
    (STUDY, lambda d: d["tasks"].update(names=["world_nil"]), ["task 'world_nil'", "did you mean 'world_nli'?"]),
    (STUDY, lambda d: d["tasks"].update(names=["corpus_perplexity"]), ["'corpus_perplexity' needs", "a corpus"]),
    (STUDY, lambda d: d.pop("world"), ["datasets.counterfact", "needs the study to have a world"]),
    (STUDY, lambda d: d["tuning"].update(edits=1000), ["tuning.edits: 1000 edits", "tuning_people"]),
    (STUDY, lambda d: d["locate"].update(records=1000), ["locate.records: 1000 edits", "tuning_people"]),
    (STUDY, lambda d: d["locate"].update(method="memmit"), ["locate: unknown method 'memmit'", "'memit'"]),
    (STUDY, lambda d: d["locate"].update(edits=4), ["locate: unknown key 'edits'"]),
    (STUDY, lambda d: d["datasets"].update(locate={"source": "world"}), ["'locate' is the name of a folder"]),
    (STUDY, lambda d: d["tuning"].update(trials=50), ["tuning_grid of 'memit' has 2 settings", "tries 50"]),
    (STUDY, lambda d: d["sensitivity"].update(edits=1000), ["sensitivity.edits: 1000 edits", "tuning_people"]),
    (STUDY, lambda d: d["sensitivity"].update(method="memit"), ["sensitivity", "'memit' has no hyperparameter 'eta'"]),
    (STUDY, lambda d: d["sensitivity"].update(method="rect+sphere"), ["sensitivity.method", "not one of the study's"]),
    (STUDY, lambda d: d["sensitivity"].update(alpha=[2]), ["sensitivity.alpha", "(got 2"]),
    (MODEL, lambda d: d.update(name="smok"), ["name is 'smok': make it 'smoke'"]),
    (MODEL, lambda d: d.update(layers=[1, 0]), ["layers must ascend"]),
    (MODEL, lambda d: d.update(layers=[0, 3]), ["layers: 3 is beyond the last layer, 2"]),
    (MODEL, lambda d: d.update(dtype="float23"), ["dtype", "did you mean 'float32'?"]),
    (MODEL, lambda d: d.update(device="cuda:x"), ["device: string should match", "(got 'cuda:x')"]),
    (
        MODEL,
        lambda d: d.update(trust_remote_code=True),
        ["trust_remote_code is for a folder of your own", "kind: path"],
    ),
    (
        MODEL,
        lambda d: d["methods"]["sphere"].update(values={"lr": -1}),
        ["models/smoke.yaml: methods: method 'sphere': values: lr: input should be greater than 0"],
    ),
    (MODEL, lambda d: d["methods"].update({"sphere@eta": {}}), ["models/smoke.yaml: methods: method 'sphere@eta'"]),
    (
        MODEL,
        lambda d: d["tuning_grid"].update(spehre={}),
        ["models/smoke.yaml: tuning_grid: ", "unknown method 'spehre'"],
    ),
    (MODEL, lambda d: d["source"].update(kind="wordl"), ["source", "wordl", "'world'"]),
    (MODEL, lambda d: d.update(source={"kind": "path", "path": "gone"}), ["source.path: gone is not a model folder"]),
    (
        MODEL,
        lambda d: d.update(source={"kind": "hub", "id": "Qwen/Qwen2.5-7B-Instuct"}),
        ["models/smoke.yaml: source.id", "no model of sources.tsv: did you mean 'Qwen/Qwen2.5-7B-Instruct'?"],
    ),
    (
        MODEL,
        lambda d: d["methods"]["sphere"].update(rigde=3),
        ["models/smoke.yaml: methods", "'sphere' has no hyperparameter 'rigde'", "did you mean 'ridge'?"],
    ),
    (MODEL, lambda d: d["methods"].update(alphadit={}), ["unknown method 'alphadit'", "did you mean 'alphaedit'?"]),
    (MODEL, lambda d: d["tuning_grid"]["sphere"].update(alpha=[0.5, 2]), ["tuning_grid", "alpha", "(got 2"]),
]


@pytest.mark.parametrize(("file", "change", "parts"), MISTAKES, ids=[parts[0] for *_, parts in MISTAKES])
def test_a_mistake_is_answered_in_one_line_that_names_it(
    refusal: Change, file: str, change: Callable[[dict[str, Any]], Any], parts: list[str]
) -> None:
    line = refusal(file, change)
    assert "\n" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "is not YAML"),
        ("a: !!bool maybe", "'maybe' is no bool in .* line 1, column 4"),
        ('a: !!int ""', "'' is no int"),
        ('a: !!float ""', "'' is no float"),
        ("a: !!timestamp x", "'x' is no timestamp"),
        ("a: 2001-99-99", "'2001-99-99' is no timestamp"),
        ('a: "\\ud800"', r"'\\ud800' is no str"),
        ('a: "\\UFFFFFFFF"', "is not YAML"),
        ("- memit\n", "holds no settings"),
        ("", "holds no settings"),
    ],
)
def test_a_file_that_is_no_settings_is_answered_in_one_line(config: Path, text: str, part: str) -> None:
    (config / "studies" / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"bad\.yaml .*{part}") as caught:
        load_study("bad", root=config)
    assert "\n" not in str(caught.value)


TASK = "tasks/sphere_rte_zeroshot.yaml"
TASK_MISTAKES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda d: d.update(doc_to_txt="x"), "unknown key 'doc_to_txt': did you mean 'doc_to_text'?"),
    (lambda d: d.update(task="rte2"), "task is 'rte2': make it 'sphere_rte_zeroshot'"),
    (lambda d: d.update(doc_to_text="{{sentence1}"), "doc_to_text is no Jinja template"),
    (lambda d: d.pop("test_split"), "give the split to score"),
    (lambda d: d.pop("doc_to_choice"), "multiple_choice goes with doc_to_choice"),
    (lambda d: d.update(metric_list=[{"metric": "f1"}]), "metric_list.0.metric"),
    (lambda d: d.update(dataset_name="mrpc"), "no dataset of sources.tsv is nyu-mll/glue mrpc: add a row for it"),
]


@pytest.mark.parametrize(("change", "part"), TASK_MISTAKES, ids=[part for _, part in TASK_MISTAKES])
def test_a_mistake_in_a_task_of_ones_own_stops_the_study(
    config: Path, refusal: Change, change: Callable[[dict[str, Any]], Any], part: str
) -> None:
    study = config / STUDY
    study.write_text(study.read_text().replace("[world_reasoning,", "[sphere_rte_zeroshot,"))
    line = refusal(TASK, change)
    assert "sphere_rte_zeroshot.yaml: " in line
    assert part in line
    assert "\n" not in line


def test_every_task_of_the_repository_is_valid_and_asks_from_a_source() -> None:
    names = [path.stem for path in (ROOT / "config" / "tasks").glob("*.yaml")]
    study = load_study("paper", root=ROOT / "config")
    assert set(names) == set(study.task_files)
    assert {task: row.name for task, row in study.task_data().items()} == {
        **{name: name for name in ("gsm8k", "rte", "nq_open", "boolq")},
        "sphere_gsm8k_zeroshot": "gsm8k",
        "sphere_rte_zeroshot": "rte",
        "sphere_boolq_zeroshot": "boolq",
        "sphere_nq_zeroshot": "nq_passages",
    }


@pytest.mark.parametrize(
    ("places", "part"),
    [
        ({"counterfcat": "x"}, "'counterfcat' is not a row of .*: did you mean 'counterfact'?"),
        ({"counterfact": "gone.json"}, "config: sources.counterfact: gone.json is not there"),
        ({"rte": "gone"}, "sources.rte: README.md is not there in gone, the dataset's folder as the hub has it"),
        ({"counterfact": "~nosuchuser/x"}, "sources.counterfact: ~nosuchuser/x is not there"),
    ],
    ids=["name", "file", "folder", "home"],
)
def test_a_place_that_cannot_stand_for_a_source_is_answered_in_one_line(places: Any, part: str) -> None:
    with pytest.raises(InputError, match=part) as caught:
        load_study("smoke", root=ROOT / "config", places=places)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"stduy": 1}, "unknown key 'stduy': did you mean 'study'?"),
        ({"study": None}, "study: field required"),
        ({"study": ["smoke"]}, "study: input should be a valid string"),
        ({"results": ""}, "results: string should have at least 1 character"),
        ({"sources": "mine"}, "sources: input should be a valid dictionary (got 'mine')"),
        ({"sources": {"counterfact": None}}, "sources.counterfact: input should be a valid string (got None)"),
        ({"sources": {"counterfact": {}}}, "sources.counterfact: input should be a valid string (got {})"),
        ({"machine": {"gpu_memroy": 1}}, "machine: unknown key 'gpu_memroy': did you mean 'gpu_memory'?"),
        ({"machine": []}, "machine: input should be a valid dictionary"),
    ],
)
def test_a_mistake_in_the_settings_of_a_run_is_answered_in_one_line(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as caught:
        load_run({"study": "smoke", **changes})
    assert str(caught.value).startswith(f"config.yaml or --config: {part}")
    assert "\n" not in str(caught.value)


def test_a_run_needs_no_more_than_its_study() -> None:
    run = load_run({"study": 2024, "sources": None, "machine": {"disk": 5}})
    assert run.plain() == {
        "study": "2024",
        "results": "results",
        "sources": {},
        "machine": {**MachineSettings().plain(), "disk": 5},
    }


def test_places_stand_for_sources(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    study = load_study("paper", root=ROOT / "config", places={"llama3-8b-instruct": str(tmp_path / "model")})
    rows = {name: study.model_source(model) for name, model in study.models.items()}
    assert {name: row and row.path for name, row in rows.items()} == {
        "llama3-8b-instruct": tmp_path / "model",
        "qwen2.5-7b-instruct": None,
    }


SOURCE_MISTAKES = [
    ("multi_counterfact\tfile", "counterfact\tfile", "two rows are called 'counterfact'"),
    ("rte\tdataset", "rte\tdatset", "sources.tsv: rte: kind"),
    ("boolq\tdataset", "logs\tdataset", "'logs' is the name of a folder of results/downloads: choose another"),
    ("boolq\tdataset", "zsre_mend_eval.json\tdataset", "both kept as 'zsre_mend_eval.json': rename one"),
    ("https://rome.baulab.info/data/dsets/idf.npy", "rome.baulab.info/idf.npy", "tfidf_idf: url: |is not an address"),
]


@pytest.mark.parametrize(("old", "new", "part"), SOURCE_MISTAKES, ids=[part for *_, part in SOURCE_MISTAKES])
def test_a_mistake_in_the_sources_is_answered_in_one_line(config: Path, old: str, new: str, part: str) -> None:
    path = config / "sources.tsv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=part) as caught:
        load_study("smoke", root=config)
    assert "\n" not in str(caught.value)


def test_a_study_that_is_not_there_is_answered_with_the_nearest(config: Path) -> None:
    with pytest.raises(InputError, match=r"'embeded' is not in .*: did you mean 'embedded'"):
        load_study("embeded", root=config)
    with pytest.raises(InputError, match=r"gone/studies/x\.yaml is not there"):
        load_study("gone/studies/x.yaml")


def test_a_study_file_uses_the_models_beside_it(config: Path) -> None:
    model = config / "models" / "smoke.yaml"
    model.write_text(model.read_text().replace("layers: [0, 1]", "layers: [1, 2]"))
    assert load_study(config / "studies" / "smoke.yaml").models["smoke"].layers == (1, 2)


def test_settings_are_frozen_and_survive_the_way_through_params(smoke: Study) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        smoke.study.batch_size = 7  # type: ignore[misc]
    for settings in (smoke.study, *smoke.models.values()):
        plain = json.loads(json.dumps(settings.plain()))
        assert type(settings).model_validate(plain) == settings


@pytest.fixture(scope="module")
def smoke() -> Study:
    return load_study("smoke", root=ROOT / "config")


def test_an_edit_sees_only_its_slice_of_a_model(smoke: Study) -> None:
    model = smoke.models["smoke"]
    slice_ = model.edit_settings().plain()
    assert slice_.keys() == {"layers", "dtype", "device", "trust_remote_code", "values"}
    other = model.model_copy(update={"methods": {}, "tuning_grid": {}, "name": "other"})
    assert other.edit_settings().plain() == slice_


def test_settings_of_a_method_are_those_of_what_it_is_made_of_too() -> None:
    model = load_study("paper", root=ROOT / "config").models["llama3-8b-instruct"]
    methods = {"ft": {"layer": 21, "lr": 0.1}, "ft+sphere": {"lr": 0.2}, "sphere": {"alpha": 0.6}}
    own = model.model_copy(update={"methods": methods})
    assert own.hyperparameters("ft") == own.hyperparameters("ft@epochs=3") == methods["ft"]
    assert own.hyperparameters("ft+sphere") == {"layer": 21, "lr": 0.2}
    assert own.hyperparameters("sphere@eta=0.3") == {"alpha": 0.6}
    assert own.hyperparameters("memit+sphere") == {}


def test_statistics_are_taken_where_a_method_edits() -> None:
    study = load_study("paper", root=ROOT / "config")
    assert study.layers_with_statistics(study.models["llama3-8b-instruct"]) == [4, 5, 6, 7, 8, 21]


def test_the_paper_study_is_the_papers() -> None:
    study = load_study("paper", root=ROOT / "config")
    assert study.study.batch_size == 100
    assert study.study.checkpoints == (1000, 2000, 3000, 4000, 5000, 10000, 15000)
    assert study.study.seeds == (0, 1, 2)
    assert "memit-seq" in study.study.methods
    assert study.task_files["sphere_rte_zeroshot"].test_split == "train", "the paper's first 500 items are of it"
    for model in study.models.values():
        rome = resolve("rome", hyperparameters=model.hyperparameters("rome"))
        assert rome.edited_layers(model.layers, model.values) == (5,)
        values = rome.value_settings(model.values)
        assert (values.lr, values.weight_decay, values.clamp_norm_factor, values.relative_to) == (0.5, 1e-3, 4, "mlp")
        assert values.kl_factor == 0.0625
        assert resolve("memit").value_settings(model.values) == model.values
    llama, qwen = (study.models[name].values for name in ("llama3-8b-instruct", "qwen2.5-7b-instruct"))
    assert (llama.lr, llama.clamp_norm_factor, llama.weight_decay) == (0.1, 0.75, 0.5)
    assert (qwen.lr, qwen.clamp_norm_factor, qwen.weight_decay) == (0.5, 4, 1e-3)


def test_the_worlds_tasks_are_the_worlds() -> None:
    from sphere.data.world.tasks import TASK_FAMILIES

    assert set(WORLD_TASKS) == set(TASK_FAMILIES)


def test_schemas_and_readme_are_up_to_date() -> None:
    hint = "run: make reference"
    for name, text in config_reference.schemas().items():
        assert (ROOT / "workflow" / "schemas" / name).read_text(encoding="utf-8") == text, hint
    readme = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
    assert config_reference.readme(readme) == readme, hint


def test_every_key_is_documented() -> None:
    for kind in (StudyConfig, ModelConfig):
        for line in config_reference.tables().splitlines():
            if line.startswith("| `"):
                assert line.rsplit("|", 2)[1].strip(), f"no meaning: {line}"
        assert kind.__doc__


@pytest.mark.parametrize("path", sorted(CONFIG.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIG)))
def test_every_file_names_the_schema_it_fulfils(path: Path) -> None:
    """The first line is what editors complete and check a file by."""
    text = path.read_text(encoding="utf-8")
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named, "begin with # yaml-language-server: $schema=..."
    schema = json.loads((path.parent / named[1]).read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(text), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(text), "no_such_key": 1}, schema)
