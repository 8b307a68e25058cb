"""What a release of a library says that lacks what its backend needs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from unified_loss import _dispatch as dispatch

# Hides a name of a library that is imported, as in a release before that name.
HIDES = """
import importlib
import pickle
import {module} as library
{hide}
from unified_loss import BackendError, cross_entropy, explain
def told(report):  # which is no error by itself
    raise report.error
for call in (
    lambda: cross_entropy({make}, [0, 1]),
    lambda: cross_entropy({make}, [0, 1]),  # a failed import leaves nothing behind
    lambda: told(explain({make}, [0, 1])),
    lambda: told(explain("float32[2, 3]", [0, 1], framework="{name}")),
):
    try:
        call()
    except BackendError as error:
        text = str(error)
        assert text.startswith(f"unified_loss cannot work with {name} {{library.__version__}}: ")
        assert "oldest release that it supports is {name} {oldest}" in text, text
        assert 'pip install --upgrade "{name}>={oldest}"' in text, text
    else:
        raise AssertionError
"""
FRAMEWORKS = {
    "torch": ("torch.zeros(2, 3)", [
        "import torch.fx.experimental.symbolic_shapes as where; del where.statically_known_true",
        "del library.nn.Parameter",
    ]),
    "jax": ("jax.numpy.zeros((2, 3))", ["del jax.custom_jvp"]),
    "tensorflow": ("tensorflow.zeros((2, 3))", ["del tensorflow.RaggedTensor"]),
}  # fmt: skip
CASES = [(name, make, hide) for name, (make, hides) in FRAMEWORKS.items() for hide in hides]


@pytest.mark.parametrize(("name", "make", "hide"), CASES)
def test_release_without_a_name_is_refused(name: str, make: str, hide: str) -> None:
    """R25: the error names the release that is installed, and the oldest that will do."""
    pytest.importorskip(name)
    imports = f"import {name}\nimport {name}.numpy" if name == "jax" else f"import {name}"
    code = HIDES.format(
        module=name, hide=f"{imports}\n{hide}", make=make, name=name, oldest=dispatch.OLDEST[name]
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Torch itself needs the names, which are hidden while ours are made.
AS_IN_2_6 = """
import torch
import torch._dynamo
import torch.fx.experimental.symbolic_shapes as where
names = "guard_or_false", "guard_or_true", "has_static_value"
hidden = [getattr(where, name) for name in names]
for name in names:
    delattr(where, name)
session = torch.compiler._compile_session_context
del torch.compiler._compile_session_context
import unified_loss._backends._torch_compat as compat
torch.compiler._compile_session_context = session
assert compat.is_compiling is not torch.compiler.is_compiling
for name, value in zip(names, hidden):
    setattr(where, name, value)
    assert getattr(compat, name) is not value
from unified_loss import ShapeError, cross_entropy
compiled = torch.compile(cross_entropy, fullgraph=True, dynamic=True, backend="aot_eager")
for rows in (3, 5):
    x, y = torch.randn(rows, 4, 7), torch.arange(7).expand(rows, 7) % 4
    for given, axis in (((x, y), None), ((x.movedim(1, -1), y), -1), ((x, x.softmax(1)), 1)):
        found = compiled(*given, axis=axis)
        torch.testing.assert_close(found, cross_entropy(*given, axis=axis))
try:
    compiled(x, y[:, :3])
except Exception as error:
    assert "labels" in str(error), error
else:
    raise AssertionError


class Loss(torch.nn.Module):
    def forward(self, x, y):
        return cross_entropy(x, y)


batch = torch.export.Dim("batch")
program = torch.export.export(Loss(), (x, y), dynamic_shapes=({0: batch}, {0: batch}))
torch.testing.assert_close(program.module()(x[:2], y[:2]), cross_entropy(x[:2], y[:2]))
"""


def test_names_that_torch_came_to_have_are_done_without() -> None:
    """R25: on the oldest torch that is allowed, compiled with sizes that change."""
    pytest.importorskip("torch")
    subprocess.run([sys.executable, "-c", AS_IN_2_6], check=True)


def test_oldest_releases_are_those_of_the_extras() -> None:
    """R25: what an error asks for is what installing the extra gives."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    asked = {*project["dependencies"], *(
        needed for extra in project["optional-dependencies"].values() for needed in extra
    )}  # fmt: skip
    for library, oldest in dispatch.OLDEST.items():
        assert f"{library}>={oldest}" in asked
    assert set(dispatch.OLDEST) == set(dispatch.LOADERS)
