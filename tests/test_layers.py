"""Imports point down only, siblings do not know each other, and the main path runs without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "brickyard"

# Lowest first; what stands in one row are siblings, none of which imports another.
LAYERS = (
    ("core",),
    ("bricks",),
    ("networks",),
    ("data", "train", "devices", "search", "surgery", "modularize", "continual", "export"),
    ("assemble",),
    ("report",),
    ("factory",),
    ("testing",),  # the contract tests, run by users: may use all but the ways to talk to people
    ("cli", "service"),
)
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
ROOT_FILES = {"__init__", "__main__"}  # the lazy exports and the entry point belong to no layer
CORE_MAY_IMPORT = {"brickyard", "numpy", "pydantic", "safetensors", "torch"}

# What `brickyard make` runs through. A folder stands for all its files but those in NEEDS_TORCH.
TORCH_FREE = (
    "__init__.py",
    "__main__.py",
    "core/__init__.py",
    "core/errors.py",
    "core/files.py",
    "core/decision.py",
    "core/space.py",
    "core/config.py",
    "core/cut.py",
    "core/task.py",
    "data/__init__.py",
    "data/geometry.py",
    "data/examples.py",
    "export/__init__.py",
    "export/blueprint.py",
    "devices",
    "assemble",
    "report",
    "report.py",
    "factory",
    "factory.py",
    "cli",
    "cli.py",
)
# Files inside the folders above that only training uses; the others may import them in functions alone.
NEEDS_TORCH = {
    "assemble/discretise.py",
    "factory/batches.py",
    "factory/encoder_export.py",
    "factory/exit_make.py",
    "factory/exit_table.py",
    "factory/exit_train.py",
    "factory/build.py",
    "factory/capacity.py",
    "factory/learn.py",
    "factory/nested.py",
    "factory/parts.py",
    "factory/network_folder.py",
    "factory/start.py",
    "factory/subnets.py",
    "factory/text_subnets.py",
    "factory/text_export.py",
    "factory/text_make.py",
    "factory/timable.py",
    "factory/supernet.py",
    "factory/supernet_build.py",
    "factory/supernet_jobs.py",
    "factory/training_report.py",
    "factory/twin.py",
}
TRAIN_ONLY = ("torch", "datasets", "sklearn", "onnxscript", "matplotlib", "accelerate")


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def nodes(tree: ast.AST, *, at_import: bool) -> Iterator[ast.AST]:
    """All nodes of a tree; with `at_import` those that run when the module is imported."""
    for child in ast.iter_child_nodes(tree):
        if at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import and is_type_checking(child):
            for other in child.orelse:  # type: ignore[attr-defined]
                yield from nodes(other, at_import=True)
            continue
        yield child
        yield from nodes(child, at_import=at_import)


def imports(path: Path, *, at_import: bool = False) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of each import; `from a import b` gives `a.b`."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), at_import=at_import):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*stem, alias.name])) for alias in node.names)


def layer_of(dotted: str) -> str:
    """`brickyard.core.config` lies in layer `core`; the package itself has none (empty text)."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else ""


def is_torch_free(path: Path) -> bool:
    relative = path.relative_to(PACKAGE).as_posix()
    listed = any(relative == entry or relative.startswith(f"{entry}/") for entry in TORCH_FREE)
    return listed and relative not in NEEDS_TORCH


def own_file(dotted: str) -> Path | None:
    """The file of a dotted name of the package, be it a module or a name inside one."""
    parts = dotted.split(".")[1:]
    for end in (len(parts), len(parts) - 1):
        stem = PACKAGE.joinpath(*parts[: max(end, 0)])
        for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def loaded_with(path: Path) -> set[Path]:
    """All files of the package that importing one file loads, parent packages included."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        folder = current.parent
        while folder != PACKAGE.parent:
            if (folder / "__init__.py").is_file():
                waiting.append(folder / "__init__.py")
            folder = folder.parent
        found = (
            own_file(name) for _, name in imports(current, at_import=True) if name.startswith("brickyard")
        )
        waiting.extend(file for file in found if file is not None)
    return seen


def test_every_part_has_a_layer():
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in source_files()}
    unknown = parts - set(RANK) - ROOT_FILES
    assert not unknown, f"no layer for {sorted(unknown)}: add them to LAYERS"


def test_imports_point_down():
    wrong = []
    for path in source_files():
        own = layer_of(module_name(path))
        if own in ROOT_FILES or own not in RANK:
            continue
        for line, name in imports(path):
            other = layer_of(name)
            if not name.startswith("brickyard.") or other == own or other not in RANK:
                continue
            if RANK[other] >= RANK[own]:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line}: {own} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_core_needs_little():
    allowed = CORE_MAY_IMPORT | set(sys.stdlib_module_names)
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in source_files()
        if layer_of(module_name(path)) == "core"
        for line, name in imports(path)
        if name.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_torch_free_files_import_no_torch():
    """Neither themselves nor by what they import; functions may, when called."""
    wrong = []
    for path in filter(is_torch_free, source_files()):
        for loaded in sorted(loaded_with(path)):
            for line, name in imports(loaded, at_import=True):
                if name.split(".")[0] in TRAIN_ONLY:
                    at = f"{loaded.relative_to(PACKAGE)}:{line}"
                    wrong.append(f"{path.relative_to(PACKAGE)} loads {name} by {at}")
    assert not wrong, "\n".join(wrong)


def test_torch_free_files_load_no_torch():
    """The same at run time, with all that the libraries themselves import."""
    files = [path for path in source_files() if is_torch_free(path) and path.name != "__main__.py"]
    modules = sorted({"brickyard", *map(module_name, files)})
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [part for part in {TRAIN_ONLY!r} if part in sys.modules]\n"
        "    if heavy:\n"
        "        sys.exit(f'importing {name} loads {heavy}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["brickyard", "brickyard.factory", "brickyard.cli"])
def test_entry_points_load_no_torch(name: str):
    if name != "brickyard" and own_file(name) in (None, PACKAGE / "__init__.py"):
        pytest.skip(f"{name} is not there yet")
    script = f"import {name}, sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr or f"importing {name} loads torch"
