"""The plan: shapes against real architectures on the meta device, sizes against the files and tensors they count."""

from __future__ import annotations

import json
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import TEXTS, ModelMaker, TokenizerMaker
from pydantic import ValidationError
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from sphere import cli
from sphere.config.evaluation import NeutralSettings, StrictSettings
from sphere.config.machine import MachineSettings
from sphere.config.model import ComputeSettings, ModelConfig, PathSource, ShapeSettings, StatisticsSettings
from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.edit import edit
from sphere.editing.methods import resolve
from sphere.editing.replay import Row, record
from sphere.editing.spectra import save_directions, save_null_space
from sphere.editing.stats import collect_statistics
from sphere.editing.tracing import trace
from sphere.errors import InputError
from sphere.models.adapters import adapter
from sphere.study.configuration import Study, load_study
from sphere.study.locate import SETS
from sphere.study.plan import RULES, Asked, Plan, plan
from sphere.study.plan.costs import GIB, TRACED, Costs
from sphere.study.plan.shapes import Sizes, check_shape, shape_of

ROOT = Path(__file__).parents[2]
LLAMA3 = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}  # fmt: skip
# What each model's config.json says, as far as it says something about shapes.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama3-8b-instruct": {**LLAMA3, "tie_word_embeddings": False},
    "llama3.2-3b-instruct": {
        **LLAMA3, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "head_dim": 128, "tie_word_embeddings": True,
    },
    "qwen2.5-7b-instruct": {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "qwen3-8b": {
        "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
    "gpt2-xl": {"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "vocab_size": 50257},
    "gpt-j-6b": {
        "model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "vocab_size": 50400, "rotary_dim": 64,
        "tie_word_embeddings": False,
    },
    "smollm2-135m-instruct": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def models() -> dict[str, ModelConfig]:
    """Every model file of the repository that is not trained here."""
    import yaml

    files = [path for path in (ROOT / "config" / "models").glob("*.yaml")]
    read = [ModelConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in files]
    assert [model.name for model in read] == [path.stem for path in files]
    return {model.name: model for model in read if model.shape is not None}


def on_meta(name: str, dtype: torch.dtype) -> Any:
    config = dict(CONFIGS[name])
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config), dtype=dtype)


def test_every_shipped_model_has_a_shape_that_is_tested(models: dict[str, ModelConfig]) -> None:
    others = {"smollm2-135m-published", "smollm2-135m-bfloat16"}
    assert set(models) == {*CONFIGS, *others}
    assert all(models[name].shape == models["smollm2-135m-instruct"].shape for name in others)


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_are_those_of_the_architecture(name: str, models: dict[str, ModelConfig], tmp_path: Path) -> None:
    """On meta tensors: parameters, module paths, and the size of everything that a layer is edited with."""
    model, settings = on_meta(name, torch.bfloat16), models[name]
    shape = shape_of(settings)
    sizes, parts = Sizes(shape, "bfloat16"), adapter(model)
    assert sizes.parameters == pytest.approx(model.num_parameters(), rel=2e-3)
    assert sizes.parameters * sizes.bytes == pytest.approx(
        sum(p.numel() * p.element_size() for p in model.parameters()), rel=2e-3
    )
    assert parts.n_layers == shape.depth
    own = {layer for each in settings.methods.values() if isinstance(layer := each.get("layer"), int)}
    for i in {*settings.layers, *own}:
        weight = parts.weight(i)
        assert weight.shape == (shape.width, shape.inner)
        assert weight.numel() == sizes.weight
        assert weight.shape[1] ** 2 == sizes.moment  # C, M, and at most the null space's basis
        assert parts.weight_name(i) in model.state_dict()
    assert sizes.layer == pytest.approx(sum(p.numel() for p in parts.layer(0).parameters()), rel=2e-3)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    check_shape(name, shape, tmp_path)


def test_a_wrong_shape_is_named(models: dict[str, ModelConfig], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA3, "intermediate_size": 11008}))
    with pytest.raises(InputError, match=r"shape\.inner is 14336, but intermediate_size is 11008 in .*config\.json"):
        check_shape("llama3-8b-instruct", shape_of(models["llama3-8b-instruct"]), tmp_path)
    unknown = models["llama3-8b-instruct"].model_copy(update={"shape": None})
    with pytest.raises(InputError, match="shape is missing"):
        shape_of(unknown)
    with pytest.raises(ValidationError, match="layers: 32 is beyond the last layer, 31"):
        ModelConfig.model_validate({**models["llama3-8b-instruct"].plain(), "layers": [8, 32]})


@pytest.mark.parametrize("name", CONFIGS)
def test_the_shape_of_a_folder_is_read_there(name: str, models: dict[str, ModelConfig], tmp_path: Path) -> None:
    own = models[name].model_copy(update={"shape": None, "source": PathSource(kind="path", path=tmp_path)})
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    said, read = shape_of(models[name]), shape_of(own)
    assert read == said.model_copy(update={"gated": True, "tied": read.tied})
    assert read.tied == CONFIGS[name].get("tie_word_embeddings", False)
    (tmp_path / "config.json").write_text('{"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}')
    with pytest.raises(InputError, match=r"shape is missing: .*config\.json: vocabulary: field required"):
        shape_of(own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is no model's: it must hold an object"),
        ("{", "is not JSON"),
        ('{"hidden_size": "wide"}', "hidden_size is 'wide', no integer"),
        ('{"n_layer": 4.5}', r"n_layer is 4\.5, no integer"),
        (json.dumps({**LLAMA3, "hidden_size": -5}), r"width: .* \(got -5\)"),
    ],
)
def test_a_folder_s_broken_config_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    source = PathSource(kind="path", path=tmp_path)
    shape = ShapeSettings(width=1, inner=1, depth=1, heads=1, vocabulary=1)
    own = ModelConfig(name="own", source=source, layers=(0,))
    for call in (lambda: shape_of(own), lambda: check_shape("own", shape, tmp_path)):
        with pytest.raises(InputError, match=rf"{path}") as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        shape_of(own)


# ------------------------------------------------------------------------------------------- the paper's studies


def paper(**changes: Any) -> Study:
    """The paper's study with other settings for its models."""
    study = load_study("paper", root=ROOT / "config")
    models = {name: model.model_copy(update=changes) for name, model in study.models.items()}
    return study.model_copy(update={"models": models})


@pytest.mark.parametrize(
    ("dtype", "gib", "fits"),
    [("bfloat16", 79, True), ("float32", 79, False), ("float32", 140, True), ("bfloat16", 24, False)],
)
def test_the_paper_s_study_fits_80_gb_in_bfloat16_and_141_gb_in_float32(dtype: str, gib: float, fits: bool) -> None:
    """Of 80 GB, an A100 or H100 has 79 GiB; of 141 GB, an H200 has 140."""
    found = plan(paper(dtype=dtype), MachineSettings(gpu_memory=gib))
    problems = found.problems()
    assert (not problems) == fits, problems
    if fits:
        assert max(job.gpu_least for job in found.jobs) < gib * GIB
    elif dtype == "float32":
        assert any("dtype: bfloat16 in models/qwen2.5-7b-instruct.yaml would fit" in line for line in problems)
    else:
        assert all("take a GPU of" in line for line in problems)


def test_fewer_layers_are_advised_where_they_fit() -> None:
    (line,) = (each for each in plan(paper(), MachineSettings(gpu_memory=60)).problems() if each.startswith("qwen"))
    assert "edit sphere needs" in line
    assert "layers: [" in line
    assert "would fit" in line


def test_disk_is_bounded_and_a_study_that_does_not_fit_is_refused() -> None:
    found = plan(paper())
    assert found.kept < found.peak_in_turn < found.peak
    assert all(job.temporary == (job.rule == "edit") for job in found.jobs if job.temporary or job.rule == "edit")
    (line,) = plan(paper(), MachineSettings(disk=0.9 * found.peak_in_turn / GIB)).problems()
    assert "of disk" in line
    assert "methods with keep_states: false would fit" in line
    whole = paper()
    kept = whole.model_copy(update={"study": whole.study.model_copy(update={"keep_states": True})})
    assert plan(kept).kept == pytest.approx(found.peak)
    (line,) = plan(kept, MachineSettings(disk=1.1 * found.peak_in_turn / GIB)).problems()
    assert "keep_states: false would fit" in line


def test_what_a_job_asks_of_a_cluster_grows_with_what_it_does() -> None:
    found = plan(paper())
    stream = {"model": "llama3-8b-instruct", "dataset": "counterfact"}
    small, large = (found.asks("edit", **stream, method=method, edits=15000) for method in ("ft", "sphere"))
    assert small.mem_mb < large.mem_mb
    assert small.gpu == large.gpu == 1
    first, last = (found.asks("edit", **stream, method="sphere", edits=edits) for edits in (1000, 15000))
    assert first.runtime < last.runtime
    assert first.mem_mb == last.mem_mb
    assert found.asks("neurons").gpu == 0
    job = found.job("edit", **stream, method="sphere", edits=15000)
    assert large.mem_mb * 2**20 == pytest.approx(1.25 * job.host, rel=0.01)
    assert large.runtime * 60 == pytest.approx(2 * job.seconds, rel=0.05)
    double = plan(paper(), MachineSettings(memory_margin=2.5, time_margin=4)).asks(
        "edit", **stream, method="sphere", edits=15000
    )
    assert (double.mem_mb, double.runtime) == pytest.approx((2 * large.mem_mb, 2 * large.runtime), rel=0.01)


def test_what_is_measured_beside_the_paper_s_metrics_has_its_cost() -> None:
    """Nothing of it in the paper's study; each adds its own jobs, or seconds to the evaluations, and nothing else."""

    def asking(**changes: Any) -> Plan:
        whole = paper()
        return plan(whole.model_copy(update={"study": whole.study.model_copy(update=changes)}))

    def seconds(found: Plan, rule: str) -> float:
        return sum(job.seconds * job.count for job in found.jobs if job.rule == rule)

    bare = asking()
    rules = {job.rule for job in bare.jobs}
    assert rules.isdisjoint({"neutral", "neutral_pre_edited", "evaluate_in_context"})
    strict = asking(strict=StrictSettings())
    assert {job.rule for job in strict.jobs} == rules
    twice = asking(strict=StrictSettings(forms=("bare", "question")))
    once = seconds(strict, "evaluate") - seconds(bare, "evaluate")
    assert once > 0
    assert seconds(twice, "evaluate") - seconds(bare, "evaluate") == pytest.approx(2 * once)
    assert seconds(strict, "ability") == seconds(bare, "ability")
    neutral = asking(neutral=NeutralSettings())
    assert {job.rule for job in neutral.jobs} - rules == {"neutral", "neutral_pre_edited"}
    states = sum(job.count for job in neutral.jobs if job.rule == "evaluate")
    assert sum(job.count for job in neutral.jobs if job.rule == "neutral") == states
    longer = asking(neutral=NeutralSettings(length=640))
    assert seconds(longer, "neutral") > seconds(neutral, "neutral")
    told = asking(in_context=True)
    assert {job.rule for job in told.jobs} - rules == {"evaluate_in_context"}
    models, datasets = 2, 2
    assert sum(job.count for job in told.jobs if job.rule == "evaluate_in_context") == models * datasets
    assert not neutral.problems()
    assert not told.problems()


def test_a_model_s_own_resources_take_the_plan_s_place_and_too_small_ones_are_noted() -> None:
    found = plan(paper(resources=ComputeSettings(gpu=2, mem_mb=5000, runtime=7)))
    names = {"model": "qwen2.5-7b-instruct", "dataset": "zsre", "method": "sphere", "edits": 1000}
    assert found.asks("edit", **names) == Asked(mem_mb=5000, runtime=7, gpu=2)
    notes = [line for line in found.notes() if "asks for less" in line]
    assert len(notes) == 4
    assert any(line.startswith("models/qwen2.5-7b-instruct.yaml: resources.mem_mb: ") for line in notes)
    assert not [line for line in plan(paper()).notes() if "asks for less" in line]


def test_a_plan_needs_no_torch() -> None:
    code = """
import sys
from sphere.study.configuration import load_study
from sphere.study.plan import plan
plan(load_study("paper")).table()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# -------------------------------------------------------------------------------- counts against what is counted

LAYERS = (1, 2)
REQUEST = EditRequest(1, "Ada Lovelace", "The mother tongue of Ada Lovelace is", 21, "French", "English")
TINY = {"llama": {}, "qwen3": {"head_dim": 8}, "gpt2": {"kv_heads": 4, "gated": False, "tied": True},
        "gptj": {"kv_heads": 4, "gated": False}}  # fmt: skip


def tiny_shape(family: str, vocabulary: int) -> ShapeSettings:
    given = {"width": 32, "inner": 64, "depth": 4, "heads": 4, "kv_heads": 2, "vocabulary": vocabulary}
    return ShapeSettings.model_validate({**given, **TINY[family]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", TINY)
def test_saved_activations_are_bounded(
    family: str, dtype: torch.dtype, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """What autograd keeps of the layers above z is at most what the plan counts, and of its order."""
    tokenizer = tiny_tokenizer(True)
    parts = adapter(tiny_model(family, len(tokenizer)).to(dtype))
    rows = [Row(tuple(range(i, i + 12)), 6) for i in (3, 7)]  # tails as long as their prefixes, and short
    replayed = record(parts, rows, layer=1)
    changed = replayed.tail[replayed.pivots].clone().requires_grad_()
    held: dict[int, int] = {}
    known = {p.untyped_storage().data_ptr() for p in parts.model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = replayed.run(changed, torch.arange(len(replayed.tail)))
    tokens, layers = len(replayed.tail), 2
    counted = Sizes(tiny_shape(family, 384), str(dtype).removeprefix("torch.")).saved * tokens * layers
    assert output.requires_grad
    assert 0.3 * counted < sum(held.values()) <= counted, sum(held.values()) / counted


@pytest.mark.parametrize("method", [
    "memit", "prune", "encore", "sphere", "rome", "lyaplock", "rotate", "locft", "crisp",
    "memit-seq+rect@compensate=true",
])  # fmt: skip
def test_files_are_as_large_as_planned(
    method: str, tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    smoke = load_study("smoke", root=ROOT / "config")
    update = {"layers": LAYERS, "shape": tiny_shape("llama", 384), "source": PathSource(kind="path", path="."),
              "methods": {}, "statistics": StatisticsSettings(probe_keys=0)}  # fmt: skip
    own = smoke.models["smoke"].model_copy(update=update)
    study = smoke.study.model_copy(update={"methods": (method,)})
    costs = Costs(own, smoke.model_copy(update={"models": {"smoke": own}, "study": study}), MachineSettings())
    documents = [text[start:] for text in TEXTS for start in range(0, len(text), 3)]
    statistics = collect_statistics(adapter(model), tokenizer, documents, LAYERS, max_length=64, probe_keys=0,
                                    gradients=resolve(method).needs_gradients)  # fmt: skip
    settings = {"nullspace_fraction": 0.6} if method == "sphere" else {}
    state = edit(model, tokenizer, [REQUEST], method=method, layers=LAYERS, values=ValueSettings(steps=2),
                 contexts=Contexts(), statistics=statistics, hyperparameters=settings)  # fmt: skip
    state.save(tmp_path / "state")
    statistics.save(tmp_path / "statistics")
    save_null_space(statistics, tmp_path / "null_space")
    save_directions(adapter(model), LAYERS, tmp_path / "directions")
    planned = {
        "state": costs.bytes.state_file(resolve(method)), "statistics": costs.bytes.statistics_file,
        "null_space": costs.bytes.null_space_file, "directions": costs.bytes.directions_file,
    }  # fmt: skip
    for name, size in planned.items():
        assert (tmp_path / name).stat().st_size == pytest.approx(size, rel=0.05, abs=3000), name


def test_locating_layers_is_planned() -> None:
    """Once a model, for as many facts and sets as the code takes, with room for the statistics of a set."""
    assert {"draws": signature(trace).parameters["draws"].default, "sets": SETS + 2} == TRACED
    smoke = load_study("smoke", root=ROOT / "config")
    assert smoke.study.locate is not None

    def planned(**changes: Any) -> Plan:
        settings = None if changes.get("off") else smoke.study.locate.model_copy(update=changes)  # type: ignore[union-attr]
        return plan(smoke.model_copy(update={"study": smoke.study.model_copy(update={"locate": settings})}))

    once, more = (planned(records=n).job("locate", model="smoke") for n in (4, 400))
    assert once.count == 1
    assert more.seconds > once.seconds > 0
    assert once.host >= planned().job("statistics", model="smoke").host
    assert planned(method="ft").job("locate", model="smoke").host < once.host, "it takes no statistics"
    assert "locate" not in {job.rule for job in planned(off=True).jobs}


# ------------------------------------------------------------------------------------------------------ the command


def test_the_command_prints_and_writes_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", "smoke", "--csv", str(tmp_path / "plan.csv")])
    assert ended.value.code == 0
    frame = pd.read_csv(tmp_path / "plan.csv")
    printed = capsys.readouterr().out
    assert set(frame["rule"]) <= set(RULES)
    for rule in frame["rule"]:
        assert rule in printed
    assert (frame["gpu_gib_most"] == 0).all()
    assert (frame["host_gib"] > 0).all()


@pytest.mark.parametrize(
    ("machine", "part"),
    [
        ("{gpu_memory: 20}", "the GPU has 20: "),
        ("{gpu_memory: 0}", "config.yaml: machine: gpu_memory"),
        ("{gpu_memori: 80}", "did you mean 'gpu_memory'?"),
    ],
)
def test_what_cannot_be_is_one_line(
    machine: str, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", "paper-sensitivity", "--machine", machine])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
