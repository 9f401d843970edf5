"""The import arrows of docs/design.md, read from the syntax of every file, and that what is public is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "indiseek"
API_PAGES = ROOT / "docs" / "api"

PAGE = ROOT / "docs" / "design.md"
# Files at the root of the package that every layer may import.
COMMON = {"_checks", "_streams"}


def arrows(page: str) -> dict[str, set[str]]:
    """What each layer may import of ours, by the table of the design page."""
    return {
        layer: set() if below.strip() == "nothing of ours" else {name.strip() for name in below.split(",")}
        for layer, below in re.findall(r"^\| `(\w+)` \| ([\w, ]+?) \|", page, flags=re.MULTILINE)
    }


# A layer that is missing there is a violation.
ARROWS = arrows(PAGE.read_text(encoding="utf-8"))

# Where imports stand in functions, and why: the command line has to refuse a wrong path before it waits for torch.
LAZY = {"cli"}

# Third-party packages that only some layers may know.
CONFINED: dict[str, set[str]] = {
    "lightning": {"train"},
    "pytorch_lightning": {"train"},
    "matplotlib": {"pl"},
    "seaborn": {"pl"},
    "scvi": {"models", "data"},
}


class Import(NamedTuple):
    """One imported module, by its full dotted name."""

    module: str
    line: int
    in_function: bool


def imports(path: Path, package: str) -> list[Import]:
    """List what a file imports; ``from a import b`` counts as ``a.b``, and relative imports are resolved."""
    found: list[Import] = []

    def visit(node: ast.AST, in_function: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(alias.name, child.lineno, in_function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parents = package.split(".")
                    parents = parents[: len(parents) - (child.level - 1)]
                    base = ".".join([*parents, base]) if base else ".".join(parents)
                found.extend(Import(f"{base}.{alias.name}", child.lineno, in_function) for alias in child.names)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            visit(child, in_function or function)

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


def violations(root: Path) -> list[str]:
    """Check a package directory called ``indiseek`` and describe each import that breaks a rule."""
    broken: list[str] = []
    distributed: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        layer = relative.parts[0].removesuffix(".py")
        package = ".".join([root.name, *relative.parts[:-1]])
        facade = relative.parts == ("__init__.py",)
        if not facade and layer not in ARROWS and layer not in COMMON:
            broken.append(f"{relative}: no layer called {layer!r} in the table")
            continue
        text = path.read_text(encoding="utf-8")
        if re.search(r"\btorch\.distributed\b|from torch import .*\bdistributed\b", text):
            distributed.add(str(relative))
        for module, line, in_function in imports(path, package):
            where = f"{relative}:{line}"
            top, *rest = module.split(".")
            if top == root.name:
                if in_function and layer not in LAZY:
                    broken.append(f"{where}: lazy import of {module}")
                target = rest[0] if rest else ""
                if target in COMMON:
                    continue
                if target not in ARROWS:
                    broken.append(f"{where}: {module} is imported from the facade, not from a layer")
                elif not facade and target != layer and target not in ARROWS.get(layer, set()):
                    broken.append(f"{where}: {layer} -> {target}")
                elif not facade and target != layer and any(part.startswith("_") for part in rest[1:]):
                    broken.append(f"{where}: {module} is private to another layer")
            elif top in CONFINED and layer not in CONFINED[top]:
                broken.append(f"{where}: {top} in {layer}")
    if len(distributed) > 1:
        broken.append(f"torch.distributed in more than one file: {', '.join(sorted(distributed))}")
    return broken


def test_imports_point_downwards() -> None:
    assert violations(PACKAGE) == []


def test_every_layer_of_the_package_is_in_the_table() -> None:
    present = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert present  # an empty walk would make every other check pass
    assert present | {"cli"} == set(ARROWS)


def test_the_table_has_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(ARROWS):
        ready = {layer for layer, below in ARROWS.items() if layer not in done and below <= done}
        assert ready, f"a cycle among {sorted(set(ARROWS) - done)}"
        done |= ready


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("nn/_mlp.py", "from indiseek.objectives import Clip\n", "nn -> objectives"),
        ("nn/_mlp.py", "from ..objectives import Clip\n", "nn -> objectives"),
        ("objectives/_clip.py", "from indiseek.train import fit\n", "objectives -> train"),
        ("metrics/_foscttm.py", "import indiseek.data._fields\n", "metrics -> data"),
        ("metrics/_foscttm.py", "from indiseek import data\n", "metrics -> data"),
        ("models/_base.py", "from indiseek import IndiSeekModel\n", "from the facade"),
        ("models/_base.py", "def f():\n    from indiseek.train import fit\n", "lazy import"),
        ("models/_base.py", "from lightning.pytorch import Trainer\n", "lightning in models"),
        ("metrics/_plot.py", "import matplotlib.pyplot as plt\n", "matplotlib in metrics"),
        ("metrics/_plot.py", "def f():\n    import matplotlib\n", "matplotlib in metrics"),
        ("train/_runner.py", "import scvi\n", "scvi in train"),
        ("train/_runner.py", "from indiseek.data._disk import row_chunks\n", "private to another layer"),
        ("train/_runner.py", "from indiseek.data import _disk\n", "private to another layer"),
        ("utils/_misc.py", "import numpy\n", "no layer called 'utils'"),
    ],
)
def test_each_kind_of_violation_is_found(tmp_path: Path, file: str, source: str, expected: str) -> None:
    path = tmp_path / "indiseek" / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    (message,) = violations(tmp_path / "indiseek")
    assert expected in message


def test_torch_distributed_in_two_files_is_found(tmp_path: Path) -> None:
    for name, source in {
        "_gather.py": "import torch.distributed as dist\n",
        "_other.py": "from torch import distributed\n",
    }.items():
        path = tmp_path / "indiseek" / "objectives" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
        only_one = name == "_gather.py"
        assert bool(violations(tmp_path / "indiseek")) is not only_one


def test_allowed_imports_pass(tmp_path: Path) -> None:
    for file, source in {
        "__init__.py": "from indiseek.models import IndiSeekModel\n",
        "models/_base.py": "import scvi\nfrom indiseek.train import fit\nfrom ._split import split\n",
        "pl/_umap.py": "import matplotlib.pyplot as plt\n",
        "objectives/_clip.py": "from __future__ import annotations\nfrom ..nn import MLP\n",
    }.items():
        path = tmp_path / "indiseek" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    assert violations(tmp_path / "indiseek") == []


def public_names() -> list[tuple[str, str]]:
    """List ``(module, name)`` for each name in the ``__all__`` of the package and its layers, read from the syntax."""
    found = []
    for path in sorted([PACKAGE / "__init__.py", *PACKAGE.glob("*/__init__.py")]):
        module = "indiseek" if path.parent == PACKAGE else f"indiseek.{path.parent.name}"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found += [(module, name) for name in ast.literal_eval(node.value)]
    return found


def documented_names(pages: Path) -> set[str]:
    """Full names of what the ``autosummary`` directives of a folder of Markdown pages list."""
    found = set()
    for page in pages.glob("*.md"):
        for block in re.findall(
            r"^```\{eval-rst\}$(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            (module,) = re.findall(r"^\.\. (?:current)?module:: (\S+)$", block, re.MULTILINE)
            found |= {f"{module}.{name}" for name in re.findall(r"^   (\w+)$", block, re.MULTILINE)}
    return found


def test_every_public_name_has_a_docstring_and_a_place_in_the_api_pages() -> None:
    names = public_names()
    assert len(names) > 100  # an empty list would pass
    listed, lacking = documented_names(API_PAGES), []
    for module, name in names:
        thing = getattr(importlib.import_module(module), name)
        if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing):
            lacking += [f"{module}.{name}: docstring"] if len((thing.__doc__ or "").split()) < 3 else []
        # What the facade exports is listed there, where users find it.
        if not (name.startswith("__") or inspect.ismodule(thing) or {f"{module}.{name}", f"indiseek.{name}"} & listed):
            lacking.append(f"{module}.{name}: place")
    assert lacking == []


def test_api_pages_list_nothing_that_is_not_public() -> None:
    exported = {f"{module}.{name}" for module, name in public_names()}
    listed = documented_names(API_PAGES)
    assert listed
    assert listed <= exported
