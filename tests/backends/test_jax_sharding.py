"""JAX on eight devices, in a process of its own: how many there are is settled at its start."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.backends import BACKENDS


def test_jax_on_eight_devices(installed: list[Any]) -> None:
    """R22, R23, R24, R33: these modules of tests, with eight virtual CPUs."""
    if BACKENDS["jax"] not in installed:
        pytest.skip("jax is not under test")
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--backend", "jax"]
    helpers = Path(__file__).parents[1] / "helpers"
    modules = ("jax_on_eight_devices", "jax_groups", "jax_linear_groups", "jax_linear_layouts")
    tests = [str(helpers / f"{name}.py") for name in modules]
    done = subprocess.run(
        [*command, *tests],
        env=environment,
        cwd=helpers.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
