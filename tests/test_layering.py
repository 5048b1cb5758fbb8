"""Who may import whom, read from the sources' ASTs: `search -> spaces -> trainers -> hwmodel`."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("hwmodel", "trainers", "spaces", "search")
NEEDS_TORCH = (
    "hwmodel.certificate",
    "hwmodel.exact",
    "hwmodel.mapping",
    "hwmodel.nonideality",
    "hwmodel.rotation",
    "hwmodel.segment_mask",
    "hwmodel.simulator",
    "hwmodel.slice_statistics",
    "hwmodel.slicing",
)
"""All else in hwmodel works without torch."""
SEEN_BY_TRAINERS = (
    "hwmodel.circulant",
    "hwmodel.crossbar",
    "hwmodel.errors",
    "hwmodel.extras",
    "hwmodel.geometry",
    "hwmodel.layers",
    *NEEDS_TORCH,
)
"""All else in hwmodel is its cost side."""
HOMES = {
    "matplotlib": ("search.pictures",),
    "mlflow": ("search",),
    "onnx": ("trainers.export",),
    "onnxscript": ("trainers.export",),
    "optuna": ("search",),
    "plotly": ("search",),
    "ray": ("search",),
}
TYPE_HOMES = {"optuna": ("spaces",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported name: a module, or `name` out of a module (`*`: all of it)."""

    module: str
    name: str = ""
    line: int
    for_types: bool = False

    @property
    def path(self) -> str:
        """The module, or the submodule that it would be if `name` is one."""
        return f"{self.module}.{self.name}" if self.name not in ("", "*") else self.module


def _inside(path: str, parents: tuple[str, ...]) -> bool:
    return any(path == parent or path.startswith(f"{parent}.") for parent in parents)


def imports_of(source: str, module: str, *, is_package: bool = False) -> list[Import]:
    """Everything that a source imports, wherever in it."""
    package = module if is_package else module.rpartition(".")[0]
    return list(_imports_under(ast.parse(source), package, for_types=False))


def _imports_under(node: ast.AST, package: str, *, for_types: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            # Without `as`, `import a.b` binds `a` and with it everything that `a` re-exports.
            yield Import(module=alias.name, line=node.lineno, for_types=for_types)
            if alias.asname is None and "." in alias.name:
                root = alias.name.partition(".")[0]
                yield Import(module=root, line=node.lineno, for_types=for_types)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield Import(
                module=_absolute(node, package),
                name=alias.name,
                line=node.lineno,
                for_types=for_types,
            )
    elif isinstance(node, ast.Call) and _callee(node.func) in ("import_module", "__import__"):
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield Import(module=first.value, line=node.lineno, for_types=for_types)
    if isinstance(node, ast.If) and _callee(node.test) == "TYPE_CHECKING":
        for statement in node.body:
            yield from _imports_under(statement, package, for_types=True)
        rest: list[ast.AST] = list(node.orelse)
    else:
        rest = list(ast.iter_child_nodes(node))
    for child in rest:
        yield from _imports_under(child, package, for_types=for_types)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    base = parents[: len(parents) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _callee(node: ast.expr) -> str:
    """`name` of the expression `name` or `anything.name`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def re_exports(source: str, package: str) -> dict[str, str]:
    """The module that each name which a package re-exports comes from."""
    tree = ast.parse(source)
    return {
        alias.asname or alias.name: _absolute(node, package)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def violations(
    source: str, module: str, *, hwmodel_names: dict[str, str], is_package: bool = False
) -> list[str]:
    """Every import of `module` that the layering forbids, with its line."""
    found = []
    for imported in imports_of(source, module, is_package=is_package):
        why = (
            _points_up(imported, module)
            or _sees_costs(imported, module, hwmodel_names)
            or _foreign(imported, module)
            or _needs_torch(imported, module)
        )
        if why:
            found.append(f"{module}:{imported.line}: {imported.path}: {why}")
    return found


def _points_up(imported: Import, module: str) -> str:
    floor, target = (path.partition(".")[0] for path in (module, imported.module))
    if target in FLOORS and FLOORS.index(target) > FLOORS.index(floor):
        return f"{floor} lies below {target}"
    return ""


def _sees_costs(imported: Import, module: str, hwmodel_names: dict[str, str]) -> str:
    if not _inside(module, ("trainers",)) or not _inside(imported.module, ("hwmodel",)):
        return ""
    path = imported.path
    if imported.module == "hwmodel":
        if imported.name in ("", "*"):
            return "trainers must name what it takes from hwmodel, which holds costs too"
        path = hwmodel_names.get(imported.name, path)
    return "" if _inside(path, SEEN_BY_TRAINERS) else "trainers must not see costs"


def _foreign(imported: Import, module: str) -> str:
    root = imported.module.partition(".")[0]
    if root not in HOMES:
        return ""
    homes = HOMES[root] + (TYPE_HOMES.get(root, ()) if imported.for_types else ())
    return "" if _inside(module, homes) else f"allowed in {', '.join(homes)}"


def _needs_torch(imported: Import, module: str) -> str:
    if not _is_torch_free(module):
        return ""
    if _inside(imported.module, ("torch",)) or _inside(imported.path, NEEDS_TORCH):
        return "this module must work without torch"
    return ""


def _is_torch_free(module: str) -> bool:
    return _inside(module, ("hwmodel",)) and not _inside(module, NEEDS_TORCH)


def _sources() -> list[tuple[str, Path]]:
    """Every module of ours by its dotted name."""
    found = []
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts).removesuffix(".__init__"), path))
    return found


def _hwmodel_names() -> dict[str, str]:
    front = ROOT / "hwmodel" / "__init__.py"
    return re_exports(front.read_text(), "hwmodel") if front.exists() else {}


def test_sources_are_found() -> None:
    assert {"hwmodel.crossbar", "trainers.fit"} <= {name for name, _ in _sources()}


@pytest.mark.parametrize(("module", "path"), _sources(), ids=[name for name, _ in _sources()])
def test_imports_point_down(module: str, path: Path) -> None:
    is_package = path.name == "__init__.py"
    source = path.read_text()
    names = _hwmodel_names()
    assert not violations(source, module, hwmodel_names=names, is_package=is_package)


FRONT = "from hwmodel.accelerator import CostModel\nfrom hwmodel.crossbar import CrossbarSpec\n"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("hwmodel.mapping", "import trainers"),
        ("hwmodel.mapping", "from search.study import Study"),
        ("hwmodel.mapping", "def f():\n    import trainers.fit as fit"),
        ("hwmodel.mapping", "if TYPE_CHECKING:\n    from spaces.candidate import Candidate"),
        ("trainers.fit", "from spaces import candidate"),
        ("trainers.methods.tinyadc", "from ...spaces import candidate"),
        ("spaces.joint", "import importlib\nimportlib.import_module('search.study')"),
        ("trainers.fit", "from hwmodel.accelerator import CostModel"),
        ("trainers.fit", "from hwmodel.adc.survey import SurveyLaw"),
        ("trainers.fit", "from hwmodel import components"),
        ("trainers.fit", "from hwmodel.cost_report import CostNode"),
        ("trainers.fit", "from hwmodel import CostModel"),
        ("trainers.fit", "from hwmodel import NotReExported"),
        ("trainers.fit", "from hwmodel import *"),
        ("trainers.fit", "import hwmodel"),
        ("trainers.fit", "import hwmodel as hw"),
        ("trainers.fit", "import hwmodel.crossbar"),
        ("trainers.fit", "import hwmodel.adc as adc"),
        ("trainers.fit", "def f():\n    try:\n        import ray\n    except ImportError: ..."),
        ("trainers.fit", "import onnx"),
        ("trainers.fit", "class A:\n    def f(self):\n        from onnx import checker"),
        ("trainers.export_all", "import onnx"),
        ("search.report", "import onnx"),
        ("spaces.space", "import optuna"),
        ("spaces.space", "if not TYPE_CHECKING:\n    import optuna"),
        ("spaces.space", "if TYPE_CHECKING:\n    pass\nelse:\n    import optuna"),
        ("trainers.fit", "if TYPE_CHECKING:\n    import optuna"),
        ("spaces.space", "if TYPE_CHECKING:\n    import ray"),
        ("hwmodel.adc.base", "import plotly.graph_objects as go"),
        ("search.report", "import matplotlib.pyplot as plt"),
        ("spaces.space", "from mlflow.tracking import MlflowClient"),
        ("hwmodel", "from hwmodel.certificate import certify"),
        ("hwmodel.geometry", "import torch"),
        ("hwmodel.adc.survey", "def f():\n    from torch import nn"),
        ("hwmodel.accelerator", "from hwmodel import mapping"),
        ("hwmodel.adc.survey", "from ..mapping import to_bitlines"),
    ],
)
def test_forbidden_import_is_caught(module: str, source: str) -> None:
    names = re_exports(FRONT, "hwmodel")
    found = violations(source, module, hwmodel_names=names)
    assert len(found) == 1
    assert found[0].startswith(f"{module}:")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("search.cli.cost", "from hwmodel import CostModel\nimport hwmodel, trainers.fit, spaces"),
        ("search.pictures", "def f():\n    from matplotlib.figure import Figure"),
        ("search.study", "import optuna, ray.tune, mlflow\nfrom plotly import graph_objects"),
        ("spaces.space", "if TYPE_CHECKING:\n    from optuna.trial import BaseTrial"),
        ("spaces.space", "if typing.TYPE_CHECKING:\n    import optuna"),
        ("trainers.export", "def f():\n    import onnx\n    import torch.onnx"),
        ("trainers.fit", "from hwmodel import CrossbarSpec, certificate"),
        ("trainers.fit", "import hwmodel.crossbar as crossbar\nfrom hwmodel import geometry"),
        ("trainers.methods.tinyadc", "from ..constraints import BitlineCount\nimport torch"),
        ("hwmodel.simulator", "import torch\nfrom hwmodel.mapping import to_bitlines"),
        ("hwmodel.adc.survey", "import rayon\nfrom .base import AdcLaw"),
    ],
)
def test_allowed_import_passes(module: str, source: str) -> None:
    assert not violations(source, module, hwmodel_names=re_exports(FRONT, "hwmodel"))


def test_relative_imports_of_a_package_start_at_itself() -> None:
    found = imports_of("from .base import AdcLaw", "hwmodel.adc", is_package=True)
    assert [imported.path for imported in found] == ["hwmodel.adc.base.AdcLaw"]


def test_hwmodel_imports_without_torch() -> None:
    _run("import hwmodel; import sys; assert 'torch' not in sys.modules")


def test_torch_free_modules_import_without_torch() -> None:
    modules = [name for name, _ in _sources() if _is_torch_free(name)]
    _run(f"import {', '.join(modules)}; import sys; assert 'torch' not in sys.modules")


def _run(code: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
