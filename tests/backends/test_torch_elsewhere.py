"""Tests by ``--device``, on the device that stands for an accelerator."""

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILE = str(TESTS / "backends" / "test_torch_device.py")


def run(*arguments):
    """What pytest prints, in a process that the device is known to."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, FILE]
    found = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    return found.stdout + found.stderr


def test_tests_run_where_arrays_are(torch_is_under_test):
    """R26: on what stands for an accelerator, of which nothing is read by chance."""
    text = run("--device", "elsewhere", "-k", "auto and waits or host")
    assert "7 passed" in text, text[-3000:]


def test_a_library_without_the_device_is_refused():
    """What cannot be tested there is an error before a test runs."""
    text = run("--device", "cuda", "--backend", "numpy")
    assert "--backend numpy: has no arrays on cuda" in text
