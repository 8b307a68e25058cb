"""`python -m unified_loss demo`, and the command line itself."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import unified_loss
from unified_loss import _libraries as libraries
from unified_loss.__main__ import main
from unified_loss._demo import models, report, training

pytest.importorskip("sklearn", reason="the demo needs the extra 'demo'")
pytest.importorskip("rich", reason="the demo needs the extra 'demo'")

NO_DEVICE = "no such device"


@pytest.fixture(scope="module")
def digits():
    """The training and the test images."""
    return training.load_digits()


@pytest.fixture
def only_numpy(monkeypatch):
    """As if no other library were installed."""
    monkeypatch.setattr(libraries, "installed_names", lambda: iter(["numpy"]))


class Twin(libraries.Library):
    """NumPy under another name."""

    module = "numpy"
    version = "0"


@pytest.fixture
def numpy_and_twin(monkeypatch):
    """As if NumPy and its twin were the installed libraries."""
    monkeypatch.setattr(libraries, "installed_names", lambda: iter(["numpy", "twin"]))
    load = libraries.load
    monkeypatch.setattr(
        libraries, "load", lambda name: Twin(name) if name == "twin" else load(name)
    )


def rows_of(output):
    """The cells of each line of the table that starts with the name of a library."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if len(cells) == 9 and cells[0] != "backend"}


def test_no_command_prints_the_help(capsys):
    """Without a command, the commands are listed."""
    assert main([]) == 0
    output = capsys.readouterr().out
    assert "demo" in output
    assert "doctor" in output


def test_numpy_alone_tells_what_else_there_is(only_numpy, capsys):
    """Where no other library is installed, the demo says how to get one; else nothing of it."""
    assert main(["demo", "--steps", "1"]) == 0
    assert "pip install 'unified_loss[jax]'" in capsys.readouterr().out


def test_module_runs(monkeypatch, capsys):
    """`python -m unified_loss` ends with the exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["unified_loss"])
    monkeypatch.delitem(sys.modules, "unified_loss.__main__", raising=False)
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_module("unified_loss", run_name="__main__")
    assert exit_info.value.code == 0
    assert "usage: python -m unified_loss" in capsys.readouterr().out


@pytest.mark.usefixtures("only_numpy")
def test_demo_runs_on_numpy_alone(capsys):
    """With only NumPy installed the demo trains with NumPy, and learns."""
    assert main(["demo", "--steps", "60"]) == 0
    output = capsys.readouterr().out
    assert list(rows_of(output)) == ["numpy"]
    version, device, kernel, before, after, accuracy, _, difference = rows_of(output)["numpy"]
    assert (version, device, difference) == (np.__version__, "cpu", "0.0e+00")
    assert kernel
    assert float(before) == pytest.approx(np.log(10), abs=0.01)
    assert float(after) < 0.6
    assert float(accuracy.rstrip("%")) > 90
    assert "60/60" in output


def test_demo_trains_alike_with_every_installed_library(capsys):
    """Every installed library follows NumPy's loss curve, in one table."""
    assert main(["demo", "--steps", "5"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert list(rows) == list(libraries.installed_names())
    assert all(float(cells[-1]) < 1e-5 for cells in rows.values())
    losses = {tuple(cells[3:5]) for cells in rows.values()}
    assert len(losses) == 1, "to four digits the losses are the same"


@pytest.mark.usefixtures("only_numpy")
def test_demo_plot_is_a_png(tmp_path):
    """`--plot` writes a PNG, whatever the file is called."""
    pytest.importorskip("matplotlib", reason="the plot needs the extra 'demo'")
    file = tmp_path / "curves"
    assert main(["demo", "--steps", "2", "--plot", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_demo_plot_shows_every_curve(monkeypatch, tmp_path):
    """The plot has one curve for each library, and its distance from NumPy's."""
    figure = pytest.importorskip("matplotlib.figure", reason="the plot needs the extra 'demo'")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    runs = [
        training.Run(name, "1", "cpu", "k", losses, 0.9, 1.0)
        for name, losses in (("numpy", (2.0, 1.0)), ("twin", (2.0, 1.5)))
    ]
    report.plot(runs, tmp_path / "curves.png")
    above, below = drawn[0].axes
    assert [line.get_label() for line in above.lines] == ["numpy 1", "twin 1"]
    np.testing.assert_array_equal(below.lines[0].get_ydata(), [0, 0.5])


@pytest.mark.usefixtures("numpy_and_twin")
def test_demo_fails_when_a_curve_leaves_that_of_numpy(monkeypatch, capsys):
    """A library whose curve is off by more than 1e-5 makes the exit code 1."""
    assert main(["demo", "--steps", "2"]) == 0
    monkeypatch.setitem(
        models.MODELS,
        "twin",
        lambda library, weights: models.ArrayApiRegression(library, 2 * weights),
    )
    assert main(["demo", "--steps", "2"]) == 1
    assert float(rows_of(capsys.readouterr().out)["twin"][-1]) > 1e-5


@pytest.mark.parametrize("off", [1e-5, np.nan, np.inf])
def test_curve_must_stay_close(off):
    """NaN and infinity are no agreement either."""
    reference = training.Run("numpy", "1", "cpu", "k", (2.0, 0.0), 0.9, 1.0)
    assert report.agrees(reference, reference)
    assert not report.agrees(reference._replace(losses=(2.0, off)), reference)


@pytest.mark.usefixtures("numpy_and_twin")
def test_demo_goes_on_when_a_library_fails(monkeypatch, capsys):
    """A library that fails is named with its error; the others train; the exit code is 1."""

    def broken(*_):
        raise OSError(NO_DEVICE)

    monkeypatch.setitem(models.MODELS, "twin", broken)
    assert main(["demo", "--steps", "2"]) == 1
    captured = capsys.readouterr()
    assert list(rows_of(captured.out)) == ["numpy"]
    assert captured.err == f"twin failed: OSError: {NO_DEVICE}\n"


@pytest.mark.usefixtures("only_numpy")
def test_demo_refuses_a_library_that_is_not_installed(capsys):
    """Asking for a library that is missing is an error, not a shorter table."""
    assert main(["demo", "--backend", "torch", "numpy"]) == 1
    assert capsys.readouterr() == ("", "not installed: torch\n")


@pytest.mark.usefixtures("numpy_and_twin")
def test_demo_trains_with_chosen_libraries_and_numpy(monkeypatch, capsys):
    """`--backend` chooses; NumPy's curve is always there to compare with."""
    monkeypatch.setattr(libraries, "known_names", lambda: ("numpy", "twin", "third"))
    assert main(["demo", "--steps", "1", "--backend", "twin"]) == 0
    assert list(rows_of(capsys.readouterr().out)) == ["numpy", "twin"]


@pytest.mark.parametrize(
    ("module", "package"),
    [("sklearn", "scikit-learn"), ("rich", "rich"), ("matplotlib", "matplotlib")],
)
def test_demo_names_the_missing_extra(module, package, monkeypatch, capsys, tmp_path):
    """What the demo lacks is named in one line, with the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo", "--plot", str(tmp_path / "curves.png")]) == 1
    expected = f"the demo needs {package}: pip install 'unified_loss[demo]'\n"
    assert capsys.readouterr() == ("", expected)


@pytest.mark.usefixtures("only_numpy")
def test_demo_without_plot_needs_no_matplotlib(monkeypatch):
    """Only the plot needs matplotlib."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "--steps", "1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "must be at least 1"),
        (["--plot", "no/such/folder/curves.png"], "no such folder: no/such/folder"),
        (["--backend", "numppy"], "invalid choice: 'numppy'"),
    ],
)
def test_demo_refuses_bad_arguments(arguments, message, capsys):
    """A bad argument stops the demo before it trains."""
    with pytest.raises(SystemExit) as exit_info:
        main(["demo", *arguments])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_demo_loss_line_occurs_once():
    """All libraries share the line that computes the loss; with ``--linear``, one for each way."""
    folder = Path(unified_loss.__file__).parent / "_demo"
    found = {
        file.stem: re.findall(r"\b\w*cross_entropy\w*\(", file.read_text())
        for file in folder.glob("*.py")
    }
    assert {stem: calls for stem, calls in found.items() if calls} == {
        "training": ["cross_entropy_with_grad("],
        "heads": ["linear_cross_entropy_with_grad(", "cross_entropy_with_grad("],
    }


def test_training_loss_is_the_true_loss(digits):
    """The first loss of a run is the cross-entropy of the initial weights."""
    run = training.train(libraries.load("numpy"), lambda: None, digits=digits, steps=1)
    logits = digits.images.astype(np.float64) @ training._initial_weights()
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_softmax[np.arange(len(logits)), digits.labels].mean()
    assert run.losses[0] == pytest.approx(expected, abs=1e-6)


def test_digits_are_split_without_overlap(digits):
    """1,797 images, each in one part only, and every digit in both."""
    assert len(digits.images) == len(digits.labels) == 1437
    assert len(digits.test_images) == len(digits.test_labels) == 360
    assert set(digits.labels) == set(digits.test_labels) == set(range(10))
    assert len(np.unique(np.vstack([digits.images, digits.test_images]), axis=0)) == 1797
