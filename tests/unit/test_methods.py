"""Methods by name: composition, settings, and errors that say what was meant."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sphere.config.base import read_settings
from sphere.config.model import ModelConfig
from sphere.config.values import ValueSettings
from sphere.editing import methods
from sphere.editing.methods import Method, method_names, resolve
from sphere.editing.postprocess.base import POSTPROCESSES
from sphere.editing.postprocess.base import register as register_postprocess
from sphere.editing.postprocess.sphere import Sphere
from sphere.editing.solvers.base import SOLVERS, ClosedFormSolver, GradientSolver
from sphere.editing.solvers.base import register as register_solver
from sphere.editing.solvers.memit import Memit
from sphere.errors import InputError, nearest
from sphere.study.configuration import load_study

NAMES = (
    *("ft", "rome", "memit", "memit-seq", "prune", "rect", "alphaedit", "encore", "revive"),
    *("evoedit", "betaedit", "lyaplock", "locft", "crisp", "rotate", "scatter", "sphere"),
)


def components(method: Method) -> tuple[str, ...]:
    return (method.solver.name, *(each.name for each in method.postprocess))


def test_the_names_are_the_documented_ones():
    assert method_names() == NAMES


def test_every_component_is_some_row_s():
    used = {part for name in NAMES for part in components(resolve(name))}
    assert used == set(SOLVERS) | set(POSTPROCESSES)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("memit", ("memit",)),
        ("prune", ("memit", "prune")),
        ("rect", ("memit", "rect")),
        ("revive", ("memit", "revive")),
        ("sphere", ("alphaedit", "sphere")),
        ("alphaedit+sphere", ("alphaedit", "sphere")),
        ("rect+sphere", ("memit", "rect", "sphere")),
        ("encore+rect+sphere", ("encore", "rect", "sphere")),
    ],
)
def test_names_compose(name, parts):
    method = resolve(name)
    assert method.name == name
    assert components(method) == parts


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}+sphere" for name in NAMES if name != "sphere")])
def test_every_name_resolves_and_its_settings_rebuild_it(name):
    method = resolve(name)
    assert resolve(name, hyperparameters=method.hyperparameters) == method
    assert isinstance(method.solver, ClosedFormSolver | GradientSolver)


def test_the_settings_are_the_paper_s():
    sphere = resolve("sphere")
    assert sphere.postprocess == resolve("alphaedit+sphere").postprocess
    assert sphere.hyperparameters == {
        "ridge": 10,
        "nullspace_threshold": None,
        "nullspace_fraction": 0.7,
        "compensate": False,
        "scope": "layer",
        "eta": 0.5,
        "alpha": 0.5,
        "directions": "pretrained",
    }
    for name in ("memit", "prune", "rect", "memit-seq"):
        assert resolve(f"{name}+sphere").postprocess[-1] == Sphere(
            eta=0.5, alpha=0.8, directions="pretrained", scope="batch"
        )
        assert resolve(name).hyperparameters["second_moment_weight"] == 15_000
    assert resolve("encore").hyperparameters["ridge"] == 20
    assert resolve("rect").hyperparameters["keep_fraction"] == 0.4
    assert resolve("rome").hyperparameters["second_moment"] == "identity"
    ft = resolve("ft").hyperparameters
    assert (ft["lr"], ft["epochs"], ft["objective"]) == (5e-4, 25, "target")


def test_a_threshold_belongs_to_a_model_and_a_share_is_the_default_elsewhere():
    """The file of a model that it was published for has it; a share that is given goes over it."""

    def rule(**given):
        found = resolve("sphere", hyperparameters=given)
        settings = found.hyperparameters
        return settings["nullspace_threshold"], settings["nullspace_fraction"], bool(found.remarks)

    assert rule() == (None, 0.7, True)
    assert rule(nullspace_threshold=0.02) == (0.02, None, False)
    assert rule(nullspace_fraction=0.8) == (None, 0.8, False)
    assert rule(nullspace_threshold=0.02, nullspace_fraction=0.8) == (0.02, 0.8, False)
    with pytest.raises(InputError, match="give nullspace_threshold or nullspace_fraction"):
        rule(nullspace_fraction=None)
    for fixed, wanted in (("nullspace_threshold=0.02", (0.02, None)), ("nullspace_fraction=0.8", (None, 0.8))):
        for file in ({"nullspace_fraction": 0.7}, {"nullspace_threshold": 0.5}):
            settings = resolve(f"alphaedit@{fixed}", hyperparameters=file).hyperparameters
            assert (settings["nullspace_threshold"], settings["nullspace_fraction"]) == wanted, "the name goes over all"
    paper = load_study("paper")
    for name in paper.models:
        for method in ("alphaedit", "sphere"):
            assert paper.models[name].hyperparameters(method)["nullspace_threshold"] == 0.02


def test_a_method_and_its_control_differ_in_the_control_alone():
    """C9 and C10 hold rotate and scatter against MEMIT-seq: what a model's file says of one it says of the other."""
    for path in sorted(Path("config/models").glob("*.yaml")):
        model = read_settings(ModelConfig, path)
        weights = {
            name: resolve(name, hyperparameters=model.hyperparameters(name)).hyperparameters["second_moment_weight"]
            for name in ("memit-seq", "rotate", "scatter")
        }
        assert len(set(weights.values())) == 1, (path.name, weights)


def test_locft_trains_the_layers_that_its_authors_name():
    for name, layer in (("llama3-8b-instruct", 22), ("qwen2.5-7b-instruct", 6)):
        model = load_study("paper").models[name]
        method = resolve("locft", hyperparameters=model.hyperparameters("locft"))
        assert method.edited_layers(model.layers, model.values) == (layer,)


def test_a_name_can_fix_settings():
    method = resolve("memit+sphere@eta=0.3@second_moment_weight=7", hyperparameters={"eta": 0.9, "alpha": 0.1})
    assert method.name == "memit+sphere@eta=0.3@second_moment_weight=7"
    assert (method.hyperparameters["eta"], method.hyperparameters["alpha"]) == (0.3, 0.1)
    assert method.hyperparameters["second_moment_weight"] == 7
    assert resolve("sphere@directions=current").hyperparameters["directions"] == "current"
    assert resolve("ft@norm_constraint=null").hyperparameters["norm_constraint"] is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("memit@lr=1", "method 'memit@lr=1' has no hyperparameter 'lr'"),
        ("memit@eta", "method 'memit@eta': 'eta' sets nothing: write NAME@KEY=VALUE"),
        ("sphere@", "method 'sphere@': '' sets nothing"),
        ("sphere@eta=0.3@eta=0.5", "method 'sphere@eta=0.3@eta=0.5' sets 'eta' twice: drop one"),
        ("sphere@eta=2001-99-99", "method 'sphere@eta=2001-99-99': the value of 'eta' is not YAML: '2001-99-99' is no"),
        ("sphere@eta=2001-09-09", "method 'sphere@eta=2001-09-09': the value of 'eta' is no number or word"),
        ("sphere@eta=-", "method 'sphere@eta=-': the value of 'eta' is no number or word"),
        ("sphere@eta==", "method 'sphere@eta==': the value of 'eta' is not YAML"),
        ("sphere@eta=[", "method 'sphere@eta=[' cannot be a folder's name"),
        ("sphere@eta=!!bool x", "method 'sphere@eta=!!bool x' cannot be a folder's name"),
        ("sphere@eta=0.3 #/../../../../evil", "method 'sphere@eta=0.3 #/../../../../evil' cannot be a folder's name"),
        ("sphere@eta=0.3\n", "method 'sphere@eta=0.3\\n' cannot be a folder's name"),
        ("sphere@eta=0." + "3" * 100, "method 'sphere@eta=0"),
    ],
)
def test_a_name_that_fixes_nothing_or_cannot_be_a_folder_is_refused(name, message):
    with pytest.raises(InputError) as caught:
        resolve(name)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_hyperparameters_go_to_the_component_that_has_them():
    method = resolve("memit+sphere", hyperparameters={"second_moment_weight": 500, "alpha": 0.3})
    assert method.solver == Memit(second_moment_weight=500)
    assert method.postprocess == (Sphere(alpha=0.3),)
    over_the_row = resolve("sphere", hyperparameters={"alpha": 0.9}).hyperparameters
    assert (over_the_row["alpha"], over_the_row["scope"]) == (0.9, "layer")


def test_rows_add_methods_and_replace_them():
    rows = {
        "mine": {"solver": "encore", "postprocess": ["sphere"], "hyperparameters": {"ridge": 3, "alpha": 1}},
        "memit": {"solver": "memit", "hyperparameters": {"second_moment_weight": 7}},
    }
    mine = resolve("mine", rows=rows)
    assert components(mine) == ("encore", "sphere")
    assert (mine.hyperparameters["ridge"], mine.hyperparameters["alpha"]) == (3, 1)
    assert resolve("memit+sphere", rows=rows).hyperparameters["second_moment_weight"] == 7
    assert method_names(rows) == (*NAMES, "mine")
    assert method_names() == NAMES


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("memmit", "unknown method 'memmit': did you mean 'memit'?"),
        ("alpha-edit", "unknown method 'alpha-edit': did you mean 'alphaedit'?"),
        ("zzz", "unknown method 'zzz': choose from alphaedit, "),
        ("memmit+sphere", "unknown method 'memmit': did you mean 'memit'?"),
        (
            "memit+spere",
            "method 'memit+spere' names the unknown post-process 'spere': did you mean 'sphere'?",
        ),
        ("memit+", "method 'memit+' names the unknown post-process ''"),
        ("sphere+sphere", "method 'sphere+sphere' applies sphere, sphere: name each post-process once"),
        ("", "method '' cannot be a folder's name"),
    ],
)
def test_unknown_names_say_what_was_meant(name, message):
    with pytest.raises(InputError) as caught:
        resolve(name)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hyperparameters", "message"),
    [
        ("sphere", {"aplha": 0.5}, "method 'sphere' has no hyperparameter 'aplha': did you mean 'alpha'?"),
        (
            "memit",
            {"eta": 0.5},
            "method 'memit' has no hyperparameter 'eta': choose from second_moment_weight",
        ),
        (
            "memit+sphere",
            {"alpha": 1.5},
            "method 'memit+sphere': alpha: input should be less than or equal to 1",
        ),
        ("memit", {"second_moment_weight": float("nan")}, "method 'memit': second_moment_weight: "),
        ("memit", {"second_moment_weight": 0}, "method 'memit': second_moment_weight: "),
        (
            "rome",
            {"second_moment": "both"},
            "method 'rome': second_moment: input should be 'identity' or 'data'",
        ),
        ("ft", {"epochs": 2.5}, "method 'ft': epochs: "),
    ],
)
def test_bad_settings_name_the_key_and_the_value(name, hyperparameters, message):
    with pytest.raises(InputError) as caught:
        resolve(name, hyperparameters=hyperparameters)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"solver": "memmit"}, "names the unknown solver 'memmit': did you mean 'memit'?"),
        ({"solver": "memit", "post": []}, "method row 'mine': post: "),
        ({}, "method row 'mine': solver: field required"),
        (None, "method row 'mine': the row: "),
        ({"solver": "memit", "hyperparameters": {"etta": 1}}, "has no hyperparameter 'etta'"),
    ],
)
def test_bad_rows_are_named(row, message):
    with pytest.raises(InputError) as caught:
        resolve("mine", rows={"mine": row})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memit: [", "is not YAML: "),
        ("memit: {solver: memit}\nmemit: {solver: ft}", "the key 'memit' stands twice"),
        ("memit: {solver: !!bool maybe}", "'maybe' is no bool"),
        ("- memit", "holds no methods"),
        ("", "holds no methods"),
        ("2: {solver: memit}", "method row 2: name it by letters"),
        ("a@b: {solver: memit}", "method row 'a@b': name it by letters"),
    ],
)
def test_a_mistake_in_the_file_of_rows_names_it(text, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "methods.yaml"
    path.write_text(text)
    monkeypatch.setattr(methods, "ROWS", path)
    with pytest.raises(InputError) as caught:
        methods._rows.__wrapped__()
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_is_registered_once():
    with pytest.raises(InputError, match="two solvers are called 'memit'"):
        register_solver(Memit)
    with pytest.raises(InputError, match="two post-processes are called 'sphere'"):
        register_postprocess(Sphere)


def test_nearest():
    assert nearest("etta", ["eta", "alpha"]) == ": did you mean 'eta'?"
    assert nearest("q", ["eta", "alpha"]) == ": choose from alpha, eta"


def test_naming_methods_costs_no_torch():
    """A study is parsed before any tool that needs torch is chosen."""
    code = """
import sys
from sphere.editing.methods import method_names, resolve
assert all(resolve(name).hyperparameters for name in method_names())
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_method_s_own_values_go_over_the_model_s() -> None:
    model = ValueSettings(lr=0.1, steps=20, clamp_norm_factor=0.75, kl_factor=0.3)
    assert resolve("memit").value_settings(model) is model
    own = resolve("rome").value_settings(model)
    assert (own.lr, own.weight_decay, own.clamp_norm_factor, own.relative_to) == (0.5, 1e-3, 4, "mlp")
    assert (own.steps, own.kl_factor) == (20, 0.3), "what the row does not say is the model's"
    given = {"values": {"lr": 0.3, "steps": 9}}
    named = resolve("rome@values.lr=0.2", hyperparameters=given).value_settings(model)
    assert (named.lr, named.steps, named.clamp_norm_factor) == (0.2, 9, 4)
    assert resolve("memit", hyperparameters={"values.lr": 0.7}).value_settings(model).lr == 0.7
    assert resolve("memit+sphere", hyperparameters=given).hyperparameters["values"] == {"lr": 0.3, "steps": 9}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lr": -1}, "method 'memit': values: lr: input should be greater than 0"),
        ({"stepps": 3}, "method 'memit': values: unknown key 'stepps': did you mean 'steps'?"),
        (3, "method 'memit': values: write {lr: 0.5} and the like (got 3)"),
        ({"steps": 1}, "method 'memit': values: steps: input should be greater than or equal to 2"),
    ],
)
def test_bad_values_name_method_and_key(values: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve("memit", hyperparameters={"values": values})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
