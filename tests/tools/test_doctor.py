"""`python -m unified_loss doctor`."""

import sys

import numpy as np
import pytest

from unified_loss import _doctor as doctor
from unified_loss import _libraries as libraries
from unified_loss.__main__ import main

KERNEL_GONE = "the kernel is gone\nand so on"


@pytest.fixture
def only_numpy(monkeypatch):
    """As if no other library were installed."""
    monkeypatch.setattr(libraries, "installed_names", lambda: iter(["numpy"]))


def test_doctor_finds_every_installed_library_right(capsys):
    """Every installed library is listed with its version and found right."""
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    installed = list(libraries.installed_names())
    for name in installed:
        assert f"\n{name} {libraries.load(name).version} on " in output
    assert output.count(": ok\n") == len(installed)
    assert f"{len(installed)} of {len(installed)} installed libraries are right." in output


@pytest.mark.usefixtures("only_numpy")
def test_doctor_lists_cases_with_their_kernels(capsys):
    """Each case that the dtypes of the library allow is one line that names the kernel."""
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    library = libraries.load("numpy")
    for case in doctor.CASES:
        found = [line for line in lines if line.startswith(f"  {case.name}  ")]
        assert len(found) == library.has_dtype(case.dtype)
        for line in found:
            kernel = doctor.check(library, case).cells[1]
            assert kernel
            assert f"  {kernel}  " in line


@pytest.mark.usefixtures("only_numpy")
def test_doctor_says_what_is_not_installed(capsys):
    """Libraries that have a backend and are absent are named, and are no failure."""
    assert main(["doctor"]) == 0
    absent = ", ".join(libraries.known_names()[1:])
    assert f"not installed: {absent}\n" in capsys.readouterr().out


@pytest.mark.usefixtures("only_numpy")
def test_doctor_is_silent_about_absence_where_all_is_installed(monkeypatch, capsys):
    """There is no such line where nothing is missing."""
    monkeypatch.setattr(libraries, "known_names", lambda: ("numpy",))
    assert main(["doctor"]) == 0
    assert "not installed" not in capsys.readouterr().out


@pytest.mark.parametrize("module", ["rich", "matplotlib", "sklearn"])
@pytest.mark.usefixtures("only_numpy")
def test_doctor_needs_no_extra(module, monkeypatch):
    """The doctor runs without the packages of the demo."""
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["doctor"]) == 0


def off_by(function, offset):
    """The same function, its last result changed by a little."""

    def wrapper(*arguments, **options):
        result = function(*arguments, **options)
        return (result[0], result[1] + offset) if isinstance(result, tuple) else result + offset

    return wrapper


@pytest.mark.parametrize("offset", [1e-4, np.nan])
@pytest.mark.parametrize("function", ["cross_entropy", "cross_entropy_with_grad"])
@pytest.mark.usefixtures("only_numpy")
def test_doctor_fails_when_a_library_disagrees(function, offset, monkeypatch, capsys):
    """A wrong loss or a wrong gradient is shown, and makes the exit code 1."""
    monkeypatch.setattr(doctor, function, off_by(getattr(doctor, function), np.float32(offset)))
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert f"numpy {np.__version__} on cpu: WRONG\n" in output
    assert "0 of 1 installed libraries are right." in output


def test_doctor_fails_when_autodiff_disagrees(monkeypatch):
    """The gradient by the library's own autodiff is held to the reference as well."""
    library = libraries.load("numpy")
    true_gradient = doctor.reference(doctor._call(doctor.CASES[0]), doctor.CASES[0])[1]
    monkeypatch.setattr(library, "has_autodiff", True)
    found = [true_gradient]
    monkeypatch.setattr(library, "value_and_gradients", lambda _: lambda _: (None, found))
    assert doctor.check(library, doctor.CASES[0]).right
    found[0] = 2 * true_gradient
    finding = doctor.check(library, doctor.CASES[0])
    assert not finding.right
    assert finding.cells[-2:] == ("1e+00", "WRONG")


@pytest.mark.usefixtures("only_numpy")
def test_doctor_fails_when_a_call_raises(monkeypatch, capsys):
    """An exception is a finding: its first line is shown, and the exit code is 1."""

    def broken(*_, **__):
        raise RuntimeError(KERNEL_GONE)

    monkeypatch.setattr(doctor, "cross_entropy", broken)
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "RuntimeError: the kernel is gone\n" in output
    assert "and so on" not in output


@pytest.mark.usefixtures("only_numpy")
def test_doctor_fails_when_an_import_fails(monkeypatch, capsys):
    """A library that is installed and cannot be imported is named with the reason."""

    def broken(_):
        raise ImportError

    monkeypatch.setattr(libraries, "load", broken)
    assert main(["doctor"]) == 1
    assert "numpy: CANNOT BE IMPORTED\n  ImportError" in capsys.readouterr().out


@pytest.mark.parametrize("case", doctor.CASES, ids=lambda case: case.name)
def test_doctor_reference_has_the_gradient_of_its_loss(case):
    """The reference itself: its gradient is that of its loss, by central differences."""
    call = doctor._call(case)
    _, gradient = doctor.reference(call, case)
    step = 1e-4
    for position in [(0,) * len(case.shape), (-1,) * len(case.shape)]:
        move = np.zeros(case.shape)
        move[position] = step
        above, _ = doctor.reference(call._replace(logits=call.logits + move), case)
        below, _ = doctor.reference(call._replace(logits=call.logits - move), case)
        assert (above - below) / (2 * step) == pytest.approx(gradient[position], abs=1e-8)


def test_library_says_what_it_has_not():
    """Asking a library for autodiff or a compiler that it has not is an error."""
    library = libraries.load("numpy")
    for ask in (library.value_and_gradients, library.compiled):
        with pytest.raises(NotImplementedError):
            ask(np.sum)
