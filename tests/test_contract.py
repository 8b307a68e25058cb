"""What holds the house together: the backend protocol, the layers, the size of files."""

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unified_loss
from tests.backends import Backend as Adapter
from unified_loss._backend import Backend
from unified_loss._cross_entropy import kernel_of
from unified_loss._dispatch import LOADERS, backend_of
from unified_loss._ops import Ops

ROOT = Path(unified_loss.__file__).parents[1]
PACKAGE = ROOT / "unified_loss"
MODULES = sorted(PACKAGE.rglob("*.py"))
HOST = {"numpy", "array_api_compat"}
FRAMEWORKS = {"torch", "jax", "tensorflow", "mlx", "dask", "cupy", "array_api_strict"}

# Data flows one way: a module may import those of the lines above it, and no array library
# unless it is named here.
LAYERS: dict[str, set[str]] = {
    "exceptions": set(),
    "_version": set(),
    "_types": set(),
    "_shapes": {"_types"},
    "_messages": {"_shapes", "_types"},
    "_rules": {"_messages", "_shapes", "_types", "exceptions"},
    "_backend": {"_shapes", "_types"},
    "_host": {"_messages", "_rules", "_types", "exceptions", "numpy"},
    "_labels": {"_backend", "_host", "_messages", "_rules", "_types", "exceptions", "numpy"},
    "_plan": {"_backend", "_labels", "_rules", "_types"},
    "_ops": {"_types"},
    "_examples": {"_ops", "_types"},
    "_statistics": {"_examples", "_ops", "_types"},
    "_threads": set(),
    "_blocks": {"_examples", "_ops", "_shapes", "_statistics", "_threads", "_types"},
    "_dispatch": {"_backend", "_backends", "_messages", "_rules", "_types", "exceptions"},
    "_call": {
        "_backend",
        "_host",
        "_labels",
        "_messages",
        "_plan",
        "_rules",
        "_types",
        "exceptions",
    },
    "_cross_entropy": {"_call", "_dispatch", "_types"},
    "__init__": {"_cross_entropy", "_version", "exceptions"},
}


def functions(protocol: type) -> dict[str, Any]:
    """The functions that a base class or a protocol asks for."""
    found = vars(protocol).items()
    return {name: one for name, one in found if inspect.isfunction(one) and name[0] != "_"}


def parameters(function: Any) -> list[tuple[str, Any]]:
    """Names and kinds."""
    return [(one.name, one.kind) for one in inspect.signature(function).parameters.values()]


def test_every_backend_is_a_backend(backend: Adapter) -> None:
    """R2: no names but those of `Backend` are public, and its signatures are kept."""
    own = backend_of(backend.asarray(np.zeros((2, 3), np.float32)))
    assert isinstance(own, Backend)
    wanted = functions(Backend)
    assert {name for name in vars(type(own)) if name[0] != "_"} <= {"name", *wanted}
    for name, function in wanted.items():
        found = parameters(getattr(type(own), name))
        assert found == parameters(function), name


def test_every_backend_file_has_a_line(installed: list[Adapter]) -> None:
    """R2: the registry and the files agree; `array_api` is for whatever has no line."""
    files = {path.stem for path in (PACKAGE / "_backends").glob("[!_]*.py")}
    assert files == {*LOADERS, "array_api"}
    for name in {adapter.name for adapter in installed} & set(LOADERS):
        assert LOADERS[name]() is importlib.import_module(f"unified_loss._backends.{name}").BACKEND


def test_every_ops_satisfies_the_protocol(backend: Adapter) -> None:
    """R2: the array functions that the shared arithmetic needs, each with its signature."""
    own = backend_of(backend.asarray(np.zeros((2, 3), np.float32)))
    module = sys.modules[type(own).__module__]
    classes = [one for name, one in vars(module).items()
               if inspect.isclass(one) and name.endswith("Ops") and one is not Ops]  # fmt: skip
    assert classes
    for one, (name, wanted) in ((one, each) for one in classes for each in functions(Ops).items()):
        found = parameters(getattr(one, name))
        assert found == parameters(wanted), f"{one.__name__}.{name}"


def test_kernels_have_names(backend: Adapter) -> None:
    """R2: each call can tell which kernel serves it."""
    logits = backend.asarray(np.zeros((2, 3), np.float32))
    for options in ({}, {"label_smoothing": 0.1}, {"class_weight": [1, 2, 3]}):
        for labels in ([0, 1], np.eye(3, dtype=np.float32)[:2]):
            name = kernel_of(logits, labels, **options)
            assert isinstance(name, str)
            assert name.strip()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short(path: Path) -> None:
    """R27: a file that one cannot read at a sitting is two files."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_test_files_are_short() -> None:
    """R27: the same for tests and documentation scripts."""
    paths = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert not {name: length for name, length in lengths.items() if length > 400}


def imports(path: Path) -> Iterator[str]:
    """Our modules and the top packages that a module imports, but for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for guard in ast.walk(tree):
        if isinstance(guard, ast.If) and ast.unparse(guard.test) == "TYPE_CHECKING":
            guard.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (_place(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "unified_loss":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield _place(node.module or "")


def _place(module: str) -> str:
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "unified_loss" else first


def of_concern(names: Iterator[str]) -> set[str]:
    """Our own modules and the array libraries."""
    ours = {path.stem for path in PACKAGE.glob("*.py")} | {"_backends", "_demo"}
    return {name for name in names if name in ours | HOST | FRAMEWORKS}


@pytest.mark.parametrize("name", LAYERS)
def test_data_flows_one_way(name: str) -> None:
    """R2: rules import no array library, the arithmetic no backend, and nothing looks back."""
    found = of_concern(imports(PACKAGE / f"{name}.py"))
    assert found <= LAYERS[name], f"{name} imports {found - LAYERS[name]}"


def test_layers_have_an_order() -> None:
    """R2: each line of `LAYERS` names only lines above it."""
    above: set[str] = {"_backends", *HOST}
    for name, below in LAYERS.items():
        assert below <= above, name
        above.add(name)


def test_backends_import_one_library_each() -> None:
    """R2: a backend file names its own library and NumPy, and never the modules of a call."""
    later = {"_call", "_cross_entropy", "_dispatch", "__init__"}
    for path in (PACKAGE / "_backends").glob("*.py"):
        found = of_concern(imports(path))
        assert len(found & FRAMEWORKS) <= 1, path.stem
        assert path.stem[0] == "_" or found & FRAMEWORKS <= {path.stem}, path.stem
        # To Dynamo, a whole call is one operation: the one place where a backend makes a call.
        assert not found & later - ({"_call"} if path.stem == "_dynamo" else set()), path.stem
