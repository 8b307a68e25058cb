"""The fused kernels, through Triton's interpreter: in processes of their own, which need no device.

Triton asks for `TRITON_INTERPRET` when it is imported.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.plans import plan
from unified_loss import OptionError, cross_entropy, explain

torch = pytest.importorskip("torch")

from unified_loss._backends import torch as backend  # noqa: E402 (needs torch)

pytestmark = pytest.mark.usefixtures("torch_is_under_test", "nothing_is_familiar")

TESTS = Path(__file__).parents[1]


# Every call of these is served by the fused kernels.
SUITES = {
    "cases": ["backends/fused_cases"],
    "values": ["core/test_values", "core/test_edges", "core/test_masked"],
    "gradients": ["core/test_gradients", "core/test_dropped_rows"],
    "others": ["core/test_invariance", "core/test_small_dtypes"],
    "totals": ["totals/test_totals", "totals/test_running"],
    "compiled": ["backends/fused_compiled"],
}


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_what_holds_on_the_processor_holds_for_the_fused_kernels(suite):
    """R14 to R21: values, gradients, masks, edges and invariance."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    files = [str(TESTS / f"{name}.py") for name in SUITES[suite]]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    setting = {"TRITON_INTERPRET": "1", "UNIFIED_LOSS_KERNEL": "fused"}
    found = subprocess.run(
        [*command, "--backend", "torch", "-k", "not traced", *files],
        env=os.environ | (setting if suite != "compiled" else {}),
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-5000:]


@pytest.mark.parametrize(
    ("kernel", "name"),
    [("auto", "F.cross_entropy"), ("native", "F.cross_entropy"), ("blocks", "log_softmax"),
     ("rows", "row statistics (torch)")],
)  # fmt: skip
def test_a_kernel_can_be_forced(monkeypatch, kernel, name):
    """The setting decides, and `explain` tells what it did; the numbers stay the same."""
    monkeypatch.setattr(backend, "_FORCED", kernel)
    given = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
    assert explain(*given).kernel == name
    torch.testing.assert_close(cross_entropy(*given), torch.tensor(3.0).log())


@pytest.mark.parametrize(
    ("kernel", "options", "reason"),
    [
        ("fast", {}, "must be one of auto, fused, softmax, blocks, native, rows, but is 'fast'"),
        ("fused", {}, "UNIFIED_LOSS_KERNEL=fused cannot serve this call: "),
        ("native", {"z_loss": 0.5}, "UNIFIED_LOSS_KERNEL=native cannot serve this call: "),
    ],
)
def test_a_forced_kernel_that_cannot_serve_is_an_error(monkeypatch, kernel, options, reason):
    """R8: the setting is an option as well."""
    monkeypatch.setattr(backend, "_FORCED", kernel)
    given = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
    with pytest.raises(OptionError, match=reason):
        cross_entropy(*given, **options)
    assert reason in str(explain(*given, **options))


def test_an_accelerator_has_what_waits_for_nothing(monkeypatch):
    """One decision, from the plan alone: nothing that would wait for a device is chosen there."""
    there = plan((8, 10), (8,))._replace(is_ordinary=True, device=torch.device("cuda", 0))
    names, missing = [], set()
    for module in (backend.fused, backend.softmax):
        kernels = module.KERNELS
        monkeypatch.setattr(type(kernels), "refusal", lambda kernels, _: kernels.name in missing)
    for name in ("nothing", "Triton", "log_softmax"):
        missing.add(name)
        names.append(backend.BACKEND.route(there, 80).name)
    assert names == ["fused kernels (Triton)", "log_softmax in place", "row statistics (torch)"]
    for kernel in ("blocks", "native"):
        monkeypatch.setattr(backend, "_FORCED", kernel)
        with pytest.raises(OptionError, match="it would wait for the device cuda:0"):
            backend.BACKEND.route(there, 80)
