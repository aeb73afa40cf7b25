"""The arrows between the four packages go one way, and importing them stays light."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import edgeprune
import edgeprune.devices
import edgeprune.exporters
import edgeprune.runtime

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "edgeprune": edgeprune,
    "edgeprune.exporters": edgeprune.exporters,
    "edgeprune.runtime": edgeprune.runtime,
    "edgeprune.devices": edgeprune.devices,
}
# What each part may import of the others. The recipes make the bundled assets: they train what
# they export on real sounds, so they stand above exporters and devices.
MAY_IMPORT = {
    "edgeprune.devices": {"edgeprune.devices"},
    "edgeprune.runtime": {"edgeprune.runtime"},
    "edgeprune.exporters": {"edgeprune.exporters", "edgeprune.runtime"},
    "edgeprune.exporters.recipes": {
        "edgeprune.exporters.recipes",
        "edgeprune.exporters",
        "edgeprune.runtime",
        "edgeprune.devices",
    },
}
MOST_LINES = 500
HEAVY = ("torch", "onnxscript", "soundfile", "soxr", "sounddevice", "av", "librosa", "scipy")


@cache
def modules() -> dict[str, Path]:
    """Every module of the installed package by its full name."""
    found: dict[str, Path] = {}
    for name, package in PACKAGES.items():
        folder = Path(package.__path__[0])
        for file in folder.rglob("*.py"):
            parts = [name, *file.relative_to(folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = file
    return found


def part_of(module: str) -> str:
    """The package that a module stands in; ``edgeprune`` is the front door."""
    parts = sorted({*MAY_IMPORT, *PACKAGES}, key=len, reverse=True)
    return next(part for part in parts if module == part or module.startswith(part + "."))


def imported(module: str) -> set[str]:
    """Full names of everything that a module imports, wherever in it the import stands."""
    file = modules()[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def names_below(*parts: str) -> list[str]:
    return sorted(name for name in modules() if part_of(name) in parts)


def service_modules() -> list[str]:
    """The live service: part of the front door, and run on boards."""
    return sorted(name for name in modules() if name.startswith("edgeprune.service"))


def test_the_modules_are_found():
    for name in ("edgeprune._cli", "edgeprune.runtime._ort", "edgeprune.devices._mel"):
        assert name in modules()
    assert len(modules()) > 60
    for name, package in PACKAGES.items():
        for info in pkgutil.iter_modules(package.__path__, name + "."):
            if info.name not in PACKAGES:
                assert info.name in modules()


@pytest.mark.parametrize("module", names_below(*MAY_IMPORT))
def test_imports_go_down_only(module):
    ours = {name for name in imported(module) if name.split(".")[0] == "edgeprune"}
    parts = {part_of(name) for name in ours}
    assert parts <= MAY_IMPORT[part_of(module)]


@pytest.mark.parametrize("module", names_below("edgeprune", *MAY_IMPORT))
def test_the_recipes_are_nobodys_dependency(module):
    if part_of(module) != "edgeprune.exporters.recipes":
        assert not [name for name in imported(module) if "recipes" in name]


def test_the_device_side_imports_without_anything_that_a_board_lacks():
    wanted = [*names_below("edgeprune.runtime", "edgeprune.devices"), *service_modules()]
    script = f"""
import importlib, json, sys
for name in {HEAVY!r}:
    sys.modules[name] = None
for name in {wanted!r}:
    importlib.import_module(name)
print(json.dumps([n for n in {HEAVY!r} if sys.modules.get(n) is not None]))
"""
    assert json.loads(python(script)) == []


@pytest.mark.parametrize("part", ["edgeprune.runtime", "edgeprune.devices"])
def test_importing_every_module_leaves_torch_alone(part):
    script = f"""
import importlib, json, sys
for name in {names_below(part)!r}:
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""
    loaded = set(json.loads(python(script)))
    assert loaded.isdisjoint(HEAVY)
    if part == "edgeprune.devices":
        assert loaded.isdisjoint({"onnx", "onnxruntime"})
        assert not [name for name in loaded if name.startswith("edgeprune.runtime")]
    assert not [name for name in loaded if name.startswith("edgeprune.exporters")]


@pytest.mark.parametrize("module", ["edgeprune", "edgeprune._cli", "edgeprune.exporters"])
def test_the_front_door_and_the_exporters_import_without_the_extras(module):
    script = f"import sys\nfor n in {HEAVY!r}: sys.modules[n] = None\nimport {module}"
    assert python(script) == ""


def test_no_source_names_the_folders_of_this_workshop():
    needle = "../" + "shared"
    files = [*modules().values(), *(ROOT / "tests").rglob("*.py")]
    files += [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *(ROOT / "docs").rglob("*.md")]
    assert len(files) > 80
    assert not [str(file) for file in files if needle in file.read_text("utf-8")]


@pytest.mark.parametrize("module", sorted(modules()))
def test_no_module_is_longer_than_it_may_be(module):
    lines = modules()[module].read_text("utf-8").count("\n")
    assert lines <= MOST_LINES


PUBLIC = [
    *names_below("edgeprune.runtime", "edgeprune.devices", "edgeprune.exporters"),
    *service_modules(),
]


@pytest.mark.parametrize("module", PUBLIC)
def test_what_a_module_exports_is_there_and_documented(module):
    loaded = importlib.import_module(module)
    assert loaded.__doc__, module
    for name in getattr(loaded, "__all__", ()):
        value = getattr(loaded, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{module}.{name}"
            assert not (value.__doc__ or "").startswith(f"{name}("), f"{module}.{name}"


@pytest.mark.parametrize("module", [name for name in PUBLIC if name not in PACKAGES])
def test_every_module_says_what_it_exports(module):
    assert hasattr(importlib.import_module(module), "__all__")
