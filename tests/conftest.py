"""Which backends are tested, and how a test asks for them.

A test that takes `backend` runs once for each; with `mode` and `dtype` once for each mode and
floating dtype that the backend has. No framework is imported before a test of it runs.

With ``--device`` arrays are on that device, and only those tests run that ask for a backend or are
marked ``any_device`` or ``gpu``; those about the processor are skipped. "elsewhere" is a device
that any machine has, and torch takes for an accelerator (`tests/helpers/torch_elsewhere.py`).
"""

import itertools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from tests.helpers.backends import BACKENDS, Backend, use
from unified_loss import _plan

common = {"deadline": None, "print_blob": True}
common["suppress_health_check"] = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("default", max_examples=30, **common)
hypothesis.settings.register_profile("ci", max_examples=50, derandomize=True, **common)
hypothesis.settings.register_profile("thorough", max_examples=1000, **common)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--backend``, ``--device`` and ``--one-mode``."""
    parser.addoption(
        "--backend",
        action="append",
        metavar="NAME",
        help="test this backend (repeatable); without it, all that can be imported",
    )
    parser.addoption(
        "--device",
        default="cpu",
        help='where arrays are: "cuda", "mps", "xpu", or "elsewhere", which stands for them',
    )
    parser.addoption(
        "--one-mode",
        action="store_true",
        help="run each case in one mode of its backend, chosen by its name; without it, in all",
    )


def pytest_configure(config: pytest.Config) -> None:
    """A backend that was asked for must be there, with arrays on the device."""
    device = config.getoption("--device")
    if device != "cpu":
        use(device)
    asked = config.getoption("--backend") or []
    for known, what in ((BACKENDS, "is none"), (_on_device(config), f"has no arrays on {device}")):
        others = [name for name in asked if name not in known]
        if others:
            message = f"--backend {', '.join(others)}: {what}; one of {', '.join(known)}"
            raise pytest.UsageError(message)
    missing = [name for name in asked if not BACKENDS[name].is_installed()]
    if missing:
        message = f"--backend {', '.join(missing)}: not installed"
        raise pytest.UsageError(message)


def selected(config: pytest.Config) -> list[Backend]:
    """The backends under test."""
    asked = config.getoption("--backend")
    if asked:
        return [BACKENDS[name] for name in dict.fromkeys(asked)]
    return [backend for backend in _on_device(config).values() if backend.is_installed()]


def _on_device(config: pytest.Config) -> dict[str, Backend]:
    device = config.getoption("--device")
    return {name: backend for name, backend in BACKENDS.items() if backend.device == device}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Spread a test over backends, modes and dtypes."""
    if "backend" not in metafunc.fixturenames:
        return
    choices = {"mode": "modes", "dtype": "floats"}
    names = [name for name in choices if name in metafunc.fixturenames]
    cases = []
    for backend in selected(metafunc.config):
        marks = list(_marks(metafunc.definition, backend))
        for values in itertools.product(*(getattr(backend, choices[name]) for name in names)):
            label = "-".join([backend.name, *values])
            cases.append(pytest.param(backend, *values, marks=marks, id=label))
    metafunc.parametrize(["backend", *names], cases)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is not asked for, and quieten what random data does not mean."""
    device, one_mode = config.getoption("--device"), config.getoption("--one-mode")
    asked = [
        item
        for item in items
        if _is_about(item, device) and (not one_mode or _is_in_its_mode(item))
    ]
    config.hook.pytest_deselected(items=list(set(items).difference(asked)))
    items[:] = asked
    # Random rows of integers often have several ones; what a page tells of them is tested.
    warning = "unified_loss.exceptions.LossInputWarning"
    silent = pytest.mark.filterwarnings(f"ignore:rows of labels .* have several ones:{warning}")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(silent)
        processor = item.get_closest_marker("processor")
        if processor and device != "cpu":
            item.add_marker(pytest.mark.skip(reason=processor.kwargs["reason"]))


def _is_about(item: pytest.Item, device: str) -> bool:
    """Whether a test says something of the device that is asked for."""
    if item.get_closest_marker("gpu"):
        return device != "cpu"
    has_backend = "backend" in getattr(item, "fixturenames", ())
    is_of_any = item.get_closest_marker("any_device") is not None
    if device == "elsewhere":  # which is no place for inference mode, nor for backwards in one
        return has_backend and not is_of_any and item.path.parent.name != "linear"
    return device == "cpu" or has_backend or is_of_any


def _is_in_its_mode(item: pytest.Item) -> bool:
    """Whether a test is that of its mode, of those that differ in nothing else.

    Each case runs, and each mode runs half of the cases; a compiler makes most of their time.
    """
    chosen = getattr(item, "callspec", None)
    if chosen is None or not {"backend", "mode"} <= chosen.params.keys():
        return True
    modes, mode = chosen.params["backend"].modes, chosen.params["mode"]
    case = item.nodeid.replace(f"-{mode}", "", 1)
    return bool(modes[zlib.crc32(case.encode()) % len(modes)] == mode)


def _marks(item: pytest.Item, backend: Backend) -> Iterator[pytest.MarkDecorator]:
    if not backend.has_autodiff and item.get_closest_marker("needs_autodiff"):
        yield pytest.mark.skip(reason="the library has no autodiff")
    for name, mark in (("skip_backend", pytest.mark.skip), ("xfail_backend", pytest.mark.xfail)):
        for found in item.iter_markers(name):
            if found.args[0] == backend.name:
                yield mark(reason=found.kwargs["reason"])


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(20240917)


@pytest.fixture
def installed(request: pytest.FixtureRequest) -> list[Backend]:
    """All backends under test."""
    return selected(request.config)


@pytest.fixture
def nothing_is_familiar(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call is remembered: familiar ones know their route, which other settings do not change."""
    monkeypatch.setattr(_plan, "_SEEN", {})


@pytest.fixture
def torch_is_under_test(installed: list[Backend]) -> None:
    """Skip the test if torch is not under test."""
    if BACKENDS["torch"] not in installed:
        pytest.skip("torch is not under test")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A hundred logits of torch are several blocks, and the test must go through more than one."""
    from tests.helpers.torch_block_cases import cut_small

    numbers = cut_small(monkeypatch)
    yield numbers
    assert max(numbers, default=0) > 0
