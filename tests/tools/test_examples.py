"""The files under `docs/examples` run as they stand, and print what their pages say."""

import functools
import importlib.util
import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
RUNNER = runpy.run_path(str(DOCS / "generate_outputs.py"))
NUMBER = re.compile(r"\d+\.?\d*(?:e[-+]\d+)?")
NEEDS = {
    "equinox_padding.py": ("equinox", "optax"),
    "flax_digits.py": ("flax", "optax", "sklearn"),
    "keras_cnn.py": ("keras", "tensorflow", "sklearn"),
    "missing_batch_axis.py": (),
    "swap.py": ("torch", "jax", "tensorflow", "sklearn"),
    "torch_tagger.py": ("torch",),
    "xgboost_objective.py": ("xgboost", "sklearn"),
}


@functools.cache
def printed(name):
    """What an example prints, run once."""
    return RUNNER["output_of"](EXAMPLES / name)


def output_of(name):
    """What an example prints, if it can run here."""
    absent = [module for module in NEEDS[name] if importlib.util.find_spec(module) is None]
    if absent:
        pytest.skip(f"{name} needs {', '.join(absent)}")
    return printed(name)


def losses_in(output):
    """Every `loss A -> B` of the output."""
    found = re.findall(r"(\d+\.\d+) -> (\d+\.\d+)", output)
    return [(float(before), float(after)) for before, after in found]


def test_every_example_is_tested():
    """No example is left out."""
    assert {file.name for file in EXAMPLES.glob("*.py")} == NEEDS.keys()


@pytest.mark.parametrize("name", NEEDS)
def test_every_page_shows_what_its_program_prints(name):
    """The same words, and numbers that differ as those of processors do."""
    program = EXAMPLES / name
    kept = RUNNER["written"](program).read_text(encoding="utf-8")
    found = output_of(name)
    assert NUMBER.sub("#", found) == NUMBER.sub("#", kept)
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (found, kept)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.2, abs=0.01)
    page = program.with_suffix(".md").read_text(encoding="utf-8")
    for file in (name, RUNNER["written"](program).name):
        assert f"```{{literalinclude}} {file}\n" in page


def test_keras_cnn_learns():
    """Integer labels in a GradientTape loop: the loss falls."""
    ((before, after),) = losses_in(output_of("keras_cnn.py"))
    assert after < before / 2


def test_torch_tagger_learns_without_a_transpose():
    """Logits (N, L, C) and padded labels (N, L): the loss falls."""
    output = output_of("torch_tagger.py")
    assert re.search(r"logits \((\d+), (\d+), 4\), labels \(\1, \2\)", output)
    ((before, after),) = losses_in(output)
    assert after < before / 2


def test_equinox_learns_from_padded_sequences():
    """`ignore_index` in a jitted Equinox step: the loss falls, and only real positions count."""
    output = output_of("equinox_padding.py")
    real, positions = re.search(r"(\d+) of (\d+) positions count", output).groups()
    assert int(real) < int(positions)
    ((before, after),) = losses_in(output)
    assert after < before / 4


def test_flax_digits_learns():
    """A jitted Flax NNX step: the loss falls."""
    ((before, after),) = losses_in(output_of("flax_digits.py"))
    assert after < before / 2


def test_missing_batch_axis_is_named():
    """The error names both shapes and the axis on which they disagree."""
    stopped, rest = output_of("missing_batch_axis.py").split("one row per image: loss ")
    assert "(32, 10)" in stopped
    assert "(10, 10)" in stopped
    assert "axis 0" in stopped
    assert 2 < float(rest) < 4


def test_swap_gives_the_same_losses_in_four_libraries():
    """One training step, four libraries, the same numbers."""
    losses = losses_in(output_of("swap.py"))
    assert len(losses) == 4
    for before, after in losses:
        assert before == pytest.approx(losses[0][0], abs=1e-5)
        assert after == pytest.approx(losses[0][1], abs=1e-5)
        assert after < before / 2


def test_xgboost_grows_the_trees_of_its_own_objective():
    """Gradient and hessian are XGBoost's own, up to rounding, and the trees learn."""
    output = output_of("xgboost_objective.py")
    ((before, after),) = losses_in(output)
    assert after < before / 2
    assert float(re.search(r"own objective (\S+)$", output)[1]) < 1e-5
