"""What holds the house together: the backend protocol, the registry and the layers."""

import ast
import importlib
import inspect
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unified_loss
from tests.helpers.backends import Backend as Adapter
from unified_loss import _libraries as libraries
from unified_loss._backend import Backend
from unified_loss._cross_entropy import kernel_of
from unified_loss._dispatch import LOADERS, backend_of
from unified_loss._ops import Ops

ROOT = Path(unified_loss.__file__).parents[1]
PACKAGE = ROOT / "unified_loss"
HOST = {"numpy", "array_api_compat"}
FRAMEWORKS = {*libraries.known_names(), "keras"} - HOST

# Data flows one way: a module, or a package of them, may import those of the lines above it, and
# no array library unless it is named here.
LAYERS: dict[str, set[str]] = {
    "exceptions": set(),
    "_version": set(),
    "_threads": set(),
    "_types": set(),
    "_shapes": {"_types"},
    "_shown": {"_types"},
    "_offered": set(),
    "_messages": {"_offered", "_shapes", "_shown", "_types"},
    "_vocabulary": set(),
    "_words": {"_offered", "_vocabulary", "exceptions"},
    "_names": set(),
    "_rules": {"_messages", "_shapes", "_types", "exceptions"},
    "_linear_rules": {"_messages", "_rules", "_types", "exceptions"},
    "_backend": {"_shapes", "_types"},
    "_host": {"_messages", "_rules", "_shown", "_types", "exceptions", "numpy"},
    "_labels": {"_backend", "_host", "_messages", "_rules", "_types", "exceptions", "numpy"},
    "_plan": {"_backend", "_labels", "_rules", "_types"},
    "_ops": {"_types"},
    "_examples": {"_ops", "_types"},
    "_statistics": {"_examples", "_ops", "_types"},
    "_split_classes": {"_examples", "_ops", "_statistics", "_types"},
    "_sums": {"_examples", "_ops", "_statistics", "_types"},
    "_blocks": {"_examples", "_ops", "_shapes", "_statistics", "_sums", "_threads", "_types"},
    "_linear": {"_blocks", "_examples", "_ops", "_shapes", "_split_classes", "_statistics",
                "_sums", "_threads", "_types"},
    "_backends": {"_backend", "_blocks", "_examples", "_host", "_linear", "_messages", "_offered",
                  "_ops", "_rules", "_shapes", "_split_classes", "_statistics", "_sums", "_threads",
                  "_types", "exceptions",
                  *HOST,
                  *FRAMEWORKS},
    "_dispatch": {"_backend", "_backends", "_host", "_messages", "_offered", "_shown", "_types",
                  "exceptions"},
    "_columns": {"_dispatch", "_host", "_messages", "_offered", "_rules", "_shown", "exceptions",
                 "numpy"},
    "_libraries": {"_dispatch", "_types", "numpy"},
    "_diagnosis": {"_host", "_libraries", "_linear_rules", "_messages", "_offered", "_plan",
                   "_rules", "_shapes", "_shown", "_types", "exceptions", *HOST},
    "_call": {"_backend", "_columns", "_diagnosis", "_dispatch", "_host", "_labels", "_messages",
              "_offered", "_plan", "_rules", "_shapes", "_shown", "_types", "exceptions"},
    "_linear_call": {"_backend", "_call", "_diagnosis", "_labels", "_linear_rules", "_messages",
                     "_plan", "_rules", "_types", "exceptions"},
    "_cross_entropy": {"_backend", "_call", "_dispatch", "_types", "_words", "exceptions"},
    "_linear_cross_entropy": {"_cross_entropy", "_dispatch", "_linear_call", "_types", "_words",
                              "exceptions"},
    "_exact": {"_sums"},
    "_totals": {"_backend", "_cross_entropy", "_dispatch", "_exact", "_linear_cross_entropy",
                "_messages", "_types", "_words", "exceptions"},
    "integrations": {"_backend", "_backends", "_call", "_columns", "_cross_entropy", "_diagnosis",
                     "_dispatch", "_host", "_linear_cross_entropy", "_messages", "_names",
                     "_plan", "_rules", "_shapes", "_shown", "_types", "_words", "exceptions",
                     *HOST, *FRAMEWORKS},
    "_running": {"_backend", "_columns", "_cross_entropy", "_dispatch", "_exact", "_host",
                 "_linear_cross_entropy", "_messages", "_totals", "_types", "_words",
                 "exceptions", "integrations"},
    "_explain": {"_backend", "_backends", "_blocks", "_call", "_columns", "_cross_entropy",
                 "_diagnosis", "_dispatch", "_host", "_libraries", "_linear", "_linear_call",
                 "_linear_rules", "_messages", "_offered", "_plan", "_rules", "_shapes", "_shown",
                 "_types", "_words", "exceptions", "numpy"},
    "_doctor": {"_cross_entropy", "_libraries", "_types", "numpy"},
    "_demo": {"_cross_entropy", "_explain", "_libraries", "_linear_cross_entropy", "_types",
              "numpy", *FRAMEWORKS},
    "__init__": {"_cross_entropy", "_exact", "_explain", "_linear_cross_entropy", "_names",
                 "_running", "_totals", "_types", "_version",
                 "exceptions"},
    "__main__": {"_demo", "_doctor", "_explain", "_version"},
}  # fmt: skip
# To Dynamo, a whole call is one operation: the one place where a backend makes a call. Logits of
# no library are diagnosed once the call has failed; and an error makes its fixes once asked for.
LOOKS_BACK = {("_dynamo", "_call"), ("_dynamo", "_linear_call"), ("_dispatch", "_diagnosis"),
              ("exceptions", "_diagnosis")}  # fmt: skip


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


def test_every_library_is_known_everywhere() -> None:
    """R2: its file in `_libraries`, and the lists of ruff and mypy that name what may be absent."""
    names = set(libraries.known_names())
    assert {path.stem for path in (PACKAGE / "_libraries").glob("[!_]*.py")} == names
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    banned = tools["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"]
    absent = {one for override in tools["mypy"]["overrides"] for one in override["module"]}
    assert names <= set(banned)
    assert {f"{name}.*" for name in names - HOST} <= absent


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
            yield from (alias.name if alias.name in LAYERS else "__init__" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield _place(node.module or "")


def _place(module: str) -> str:
    first, _, rest = module.partition(".")
    return (rest.partition(".")[0] or "__init__") if first == "unified_loss" else first


def of_concern(path: Path) -> set[str]:
    """What a module imports of our own modules and packages, and of array libraries."""
    found = {name for name in imports(path) if name in LAYERS or name in HOST | FRAMEWORKS}
    return {name for name in found if (path.stem, name) not in LOOKS_BACK}


def test_every_module_has_a_layer() -> None:
    """R2: none is left out of what follows."""
    entries = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")}
    assert {entry.removesuffix(".py") for entry in entries} == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_data_flows_one_way(name: str) -> None:
    """R2: rules import no array library, the arithmetic no backend, and nothing looks back."""
    paths = [*PACKAGE.glob(f"{name}.py"), *(PACKAGE / name).rglob("*.py")]
    found = set().union(*map(of_concern, paths)) - {name}
    assert found <= LAYERS[name], f"{name} imports {found - LAYERS[name]}"


def test_layers_have_an_order() -> None:
    """R2: each line of `LAYERS` names only lines above it."""
    above = HOST | FRAMEWORKS
    for name, below in LAYERS.items():
        assert below <= above, name
        above.add(name)


def test_backends_import_one_library_each() -> None:
    """R2: a backend file names its own library and NumPy, and no other."""
    for path in (PACKAGE / "_backends").glob("*.py"):
        found = of_concern(path) & FRAMEWORKS
        assert len(found) <= 1, path.stem
        assert path.stem[0] == "_" or found <= {path.stem}, path.stem
