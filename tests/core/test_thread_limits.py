"""Threads under real limits of the system, and under interrupts, each in a process of its own."""

import os
import subprocess
import sys

import pytest

from tests.helpers.backends import BACKENDS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux"),
    pytest.mark.parametrize("library", ["numpy", "torch"]),
]


@pytest.fixture
def process(library, installed):
    """What a process prints that has ended well."""
    if BACKENDS[library] not in installed:
        pytest.skip(f"{library} is not under test")

    def run(what: str) -> list[int]:
        command = [sys.executable, "-m", "tests.helpers.thread_limits", what, library]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,  # to end a hang
            # It is not measured: an interrupt leaves a lock of coverage's own locked for ever.
            env={name: value for name, value in os.environ.items() if "COVERAGE" not in name},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return [int(number) for number in done.stdout.split()]

    return run


@pytest.mark.parametrize("what", ["memory", "processes"])
def test_a_limit_on_threads_changes_no_bit(process, what):
    """R21: whichever helper the system does not start."""
    helpers = process(what)
    assert helpers in ([0, 1, 2, 3, 4, 5], [0])  # who is not root cannot count own processes


def test_an_interrupt_leaves_nothing_behind(process):
    """R26: no number of threads, no mode, no error state, and no lock that is never let go."""
    assert process("interrupts") == [300]
