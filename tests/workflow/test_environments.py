"""The conda environments, as far as they can be checked without building them: pins, and what their stages import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .conftest import ROOT

ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))
CONDA = {"torch": "pytorch", "yaml": "pyyaml", "sklearn": "scikit-learn", "markdown_it": "markdown-it-py"}
"""What conda-forge calls a module's package, where it is not the module's name."""
# Methods are only named in these stages; what a solver or post-process imports to compute is not reached.
NAMING = ("data", "report")
NOT_REACHED = {"torch", "transformers"}


def dependencies(path: Path) -> dict[str, str]:
    """Package -> version."""
    environment = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert environment.keys() == {"channels", "dependencies"}
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    pins = [re.fullmatch(r"([a-z0-9_.-]+)=([0-9][0-9a-z.]*)", line) for line in environment["dependencies"]]
    assert all(pins), f"{path.name}: every line is NAME=VERSION"
    found = {pin[1]: pin[2] for pin in pins if pin}
    assert len(found) == len(pins), f"{path.name}: a package stands twice"
    return found


def imported(node: ast.AST) -> Iterator[str]:
    """Modules that code imports at any depth, and names that may be modules; what only a type checker sees, aside."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.module is not None
            assert child.level == 0, "relative imports are not followed"
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imported(child)


def files_of(module: str) -> list[Path]:
    """The files of this repository that importing ``module`` runs; of the packages of methods, all that are in them."""
    parts = module.split(".")
    found = [ROOT.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    found.append(ROOT.joinpath(*parts).with_suffix(".py"))
    if module in ("sphere.editing.solvers", "sphere.editing.postprocess"):
        found += ROOT.joinpath(*parts).glob("*.py")
    return [path for path in found if path.is_file()]


def packages(script: Path) -> set[str]:
    """The packages from outside that a script imports, itself or through this repository, at once or later."""
    waiting, seen, found = [script], {script}, set()
    while waiting:
        for module in imported(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            top = module.partition(".")[0]
            if top == "sphere":
                new = set(files_of(module)) - seen
                seen |= new
                waiting += new
            elif top not in sys.stdlib_module_names:
                found.add(top)
    return found


def stages() -> dict[str, set[str]]:
    """Environment -> scripts of the rules that name it."""
    found: dict[str, set[str]] = {}
    for rules in (ROOT / "workflow" / "rules").glob("*.smk"):
        text = rules.read_text(encoding="utf-8")
        for body in re.split(r"^ *(?:use )?rule ", text, flags=re.MULTILINE)[1:]:
            environment = re.search(r'conda:\s+"../../envs/(\w+)\.yaml"', body)
            script = re.search(r'script:\s+"../scripts/(\w+)\.py"', body)
            assert environment or not script, f"{rules.name}: a rule with a script names no environment:\n{body[:60]}"
            if environment and script:
                found.setdefault(environment[1], set()).add(script[1])
    return found


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_environments_pin_what_was_tested(path: Path) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.lower().split("==") for line in lines if "==" in line)
    names = {conda: name for name, conda in CONDA.items() if conda == "pytorch"}
    for package, version in dependencies(path).items():
        if package == "python":
            assert version == "3.11"
        else:
            assert tested[names.get(package, package)] == version, f"{path.name}: {package}"


def test_every_environment_has_a_stage_and_every_script_an_environment() -> None:
    assert stages().keys() == {path.stem for path in ENVIRONMENTS}
    scripts = {path.stem for path in (ROOT / "workflow" / "scripts").glob("*.py")}
    assert set().union(*stages().values()) == scripts


@pytest.mark.parametrize("stage", NAMING)
def test_a_stage_that_only_names_methods_reaches_no_torch(stage: str) -> None:
    modules = {
        module
        for script in stages()[stage]
        for module in imported(ast.parse((ROOT / "workflow" / "scripts" / f"{script}.py").read_text(encoding="utf-8")))
        if module.startswith("sphere") and files_of(module)[-1].stem == module.rpartition(".")[2]
    }
    program = f"import sys, {', '.join(sorted(modules))}; assert not {NOT_REACHED} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_environments_have_what_their_stage_imports(path: Path) -> None:
    there, not_reached = dependencies(path), NOT_REACHED if path.stem in NAMING else set()
    for script in sorted(stages()[path.stem]):
        wanted = packages(ROOT / "workflow" / "scripts" / f"{script}.py") - not_reached
        assert wanted, f"{script} imports nothing"
        missing = sorted(CONDA.get(name, name) for name in wanted if CONDA.get(name, name) not in there)
        assert not missing, f"envs/{path.name} lacks {', '.join(missing)}, which {script}.py imports"
