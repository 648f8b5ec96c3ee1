"""What other packages add: found by their metadata, loaded when used, refused in one line that names them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ModelMaker, TokenizerMaker

from sphere import plugins
from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.edit import edit
from sphere.editing.methods import method_names, resolve
from sphere.errors import InputError
from sphere.models.adapters import adapter, family_of
from sphere.study.configuration import load_study
from sphere.study.provenance import record

ROOT = Path(__file__).parents[2]
REQUEST = EditRequest(
    case_id=0, subject="Ada", prompt="Ada lives in", subject_start=0, target_new="Rome", target_true="London"
)
HEAD = """
from typing import ClassVar
from sphere.editing.solvers.base import ClosedFormSolver, Solution
from sphere.editing.postprocess.base import PostProcess
from sphere.models.adapters import FAMILIES
"""
SOLVER = """
class {kind}(ClosedFormSolver):
    name: ClassVar[str] = "{name}"
    def solve(self, problem):
        {body}
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install(package, code, **groups)``: the package is there, with these entry points, while a test lasts."""
    modules: list[str] = []

    def make(package: str, code: str, version: str = "1.0", **groups: dict[str, str]) -> None:
        module = package.replace("-", "_")
        folder = tmp_path / package
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        sections = [
            f"[sphere.{group}]\n" + "".join(f"{name} = {module}:{what}\n" for name, what in points.items())
            for group, points in groups.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(sections))
        (folder / f"{module}.py").write_text(HEAD + code)
        monkeypatch.syspath_prepend(str(folder))
        modules.append(module)
        plugins._found.cache_clear()

    yield make
    plugins._found.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


def solver(name: str = "mine", body: str = "return Solution(0 * problem.weight)", kind: str = "Mine") -> str:
    return SOLVER.format(kind=kind, name=name, body=body)


def message(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_solver_and_a_row_of_another_package_are_a_method(install: Install) -> None:
    install("other", solver() + 'ROW = {"solver": "mine"}\n', solvers={"mine": "Mine"}, methods={"row": "ROW"})
    made = resolve("row+sphere@eta=0.3")
    assert made.solver.name == "mine"
    assert made.packages == {"row": "other 1.0", "mine": "other 1.0"}
    assert "row" in method_names()
    assert "did you mean 'row'" in message(lambda: resolve("roww"))
    assert "did you mean 'mine'" in message(lambda: resolve("x", rows={"x": {"solver": "mein"}}))
    assert resolve("memit").packages == {}


def test_a_post_process_of_another_package_goes_onto_any_method(install: Install) -> None:
    code = 'class Halve(PostProcess):\n    name: ClassVar[str] = "halve"\n    def apply(self, update, context):\n'
    install("other", code + "        return update / 2\n", postprocesses={"halve": "Halve"})
    assert [process.name for process in resolve("memit+halve+sphere").postprocess] == ["halve", "sphere"]


def test_two_packages_that_claim_one_name_are_named_where_it_is_used(install: Install) -> None:
    for package in ("first", "second"):
        install(package, solver(), solvers={"mine": "Mine"}, methods={package: "ROW"})
    found = message(lambda: resolve("x", rows={"x": {"solver": "mine"}}))
    assert found == "solver 'mine' is claimed by first 1.0 and by second 1.0: uninstall one, or rename it there"
    assert resolve("sphere").packages == {}, "whoever uses neither is not disturbed"


def test_a_name_of_sphere_s_own_is_not_taken_over(install: Install) -> None:
    install("thief", solver("memit"), solvers={"memit": "Mine"})
    assert "claimed by sphere itself and by thief 1.0" in message(lambda: resolve("memit"))
    assert resolve("alphaedit").solver.name == "alphaedit"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('no licence\\nfound')", "cannot be imported (RuntimeError: no licence)"),
        ("import nothing_of_that_name", "cannot be imported (ModuleNotFoundError: No module named"),
        ("", "cannot be imported (AttributeError: "),
        ("Mine = 3", "is int, not a Solver"),
        ("Mine = PostProcess", "is PostProcess, not a Solver"),
        ("Mine = ClosedFormSolver", "is not a whole Solver class: define its abstract methods"),
        (solver("other"), "calls itself 'other': make the two names one"),
    ],
)
def test_a_broken_package_costs_one_line(code: str, said: str, install: Install) -> None:
    install("broken", code, version="0.3", solvers={"mine": "Mine"})
    found = message(lambda: resolve("x", rows={"x": {"solver": "mine"}}))
    assert found.startswith("solver 'mine' of broken 0.3 ")
    assert said in found
    assert resolve("memit+sphere").packages == {}


def test_a_row_that_is_none_says_whose_it_is(install: Install) -> None:
    install("broken", "ROW = 3\nOTHER = {'solver': 'memmit'}\nTHIRD = {'solvr': 'memit'}\n",
            methods={"row": "ROW", "other": "OTHER", "third": "THIRD"})  # fmt: skip
    assert "method 'row' of broken 1.0 is int, not a row" in message(lambda: resolve("row"))
    assert "names the unknown solver 'memmit': did you mean 'memit'?" in message(lambda: resolve("other"))
    assert "method 'third' of broken 1.0: method row 'third'" in message(lambda: resolve("third"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 0 * problem.weight", "TypeError: solve returned Tensor, not a Solution"),
        ("return Solution(problem.keys)", "TypeError: the update is (64, 1), the weight (32, 64)"),
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_what_breaks_while_it_edits_says_whose_it_is(
    body: str, said: str, install: Install, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    install("broken", solver(body=body) + 'ROW = {"solver": "mine"}', solvers={"mine": "Mine"}, methods={"row": "ROW"})
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    before = adapter(model).weight(1).clone()
    found = message(lambda: edit(model, tokenizer, [REQUEST], method="row", layers=(1,), values=ValueSettings(steps=2)))
    assert found == f"'mine' of broken 1.0 failed ({said}): mend or uninstall the package"
    assert torch.equal(adapter(model).weight(1), before)


def test_a_family_of_another_package_is_an_architecture(install: Install) -> None:
    assert family_of("strange") is None
    install("other", "STRANGE = FAMILIES['llama']\nWRONG = 3\n", families={"strange": "STRANGE", "odd": "WRONG"})
    assert family_of("strange") == family_of("llama")
    assert "model family 'odd' of other 1.0 is int, not a Family" in message(lambda: family_of("odd"))


def test_a_task_of_another_package_is_a_task_of_a_study(install: Install, tmp_path: Path) -> None:
    (tmp_path / "riddles.yaml").write_text("task: riddles\n")
    code = f"YAML = {str(tmp_path / 'riddles.yaml')!r}\nGONE = '/nowhere/x.yaml'\nWRONG = 3\n"
    install("other", code, tasks={"riddles": "YAML", "gone": "GONE", "wrong": "WRONG"})
    study = (ROOT / "config" / "studies" / "smoke.yaml").read_text(encoding="utf-8")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "studies").mkdir()
    for name in ("models", "sources.tsv", "tasks"):
        (tmp_path / "config" / name).symlink_to(ROOT / "config" / name)

    def with_task(name: str) -> Any:
        path = tmp_path / "config" / "studies" / "smoke.yaml"
        path.write_text(study.replace("names: [world_reasoning,", f"names: [{name}, world_reasoning,"))
        return load_study("smoke", root=tmp_path / "config")

    assert with_task("riddles").outside_tasks == {"riddles": tmp_path / "riddles.yaml"}
    assert "task 'gone' of other 1.0: /nowhere/x.yaml is not there" in message(lambda: with_task("gone"))
    assert "task 'wrong' of other 1.0 is int, not the path" in message(lambda: with_task("wrong"))
    assert "did you mean 'riddles'?" in message(lambda: with_task("ridles"))


def test_provenance_names_every_package_that_adds_anything(install: Install, tmp_path: Path) -> None:
    install("other", "raise RuntimeError", version="2.1", solvers={"mine": "Mine"})
    artefact = tmp_path / "x.txt"
    artefact.write_text("x")
    record(artefact, job={"rule": "x"}, settings={}, ancestors={})
    assert '"other": "2.1"' in (tmp_path / "provenance" / "x.txt.json").read_text()


def test_looking_for_packages_loads_no_torch() -> None:
    code = "import sys; from sphere.editing.methods import resolve; resolve('sphere')"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
