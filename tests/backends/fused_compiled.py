"""The fused kernels, compiled for devices that are not here: what is launched is what compiles.

Launches are recorded on tensors without values, in all the ways that calls ask for.
"""

import itertools
import re
import subprocess
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402 (needs Triton)
from triton.compiler import ASTSource  # noqa: E402

from unified_loss._backends import _torch_fused as fused  # noqa: E402 (needs torch)
from unified_loss._backends import _torch_pair as pair  # noqa: E402 (needs torch)
from unified_loss._backends.torch import BACKEND  # noqa: E402
from unified_loss._call import prepare  # noqa: E402
from unified_loss._types import Operands, Options  # noqa: E402

pytestmark = pytest.mark.usefixtures("torch_is_under_test")

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
POINTERS = {
    torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32",
    torch.float64: "*fp64", torch.int64: "*i64", torch.int32: "*i32", torch.bool: "*i1",
}  # fmt: skip
PLAIN = ((8192, 32000), 1, "float32", "index", {})
CALLS = {
    "plain": PLAIN,
    "bfloat16": ((4096, 128256), 1, "bfloat16", "index", {}),
    "few long rows": ((8, 262144), 1, "float32", "index", {"label_smoothing": 0.1}),
    "few classes": ((10_000_000, 10), 1, "float32", "index", {}),
    "images": ((8, 21, 512, 512), 1, "float32", "index", {}),
    "dense": ((4096, 32000), 1, "float16", "dense", {}),
    "dense, long rows, all options": (
        (8, 262144), 1, "float64", "dense", {"label_smoothing": 0.1, "z_loss": 0.1, "weights": True}
    ),
    "many axes": (
        (2, 3, 4, 5, 6), 2, "float32", "index", {"label_smoothing": 0.1, "weights": True}
    ),
}  # fmt: skip


@pytest.fixture
def launched(monkeypatch):
    """A function: what is launched by the loss, and by the loss and its gradient."""
    found = []

    def record(kernel, programs, *arguments, **constants):
        assert 0 < programs < 2**31
        found.append((kernel, arguments, constants))

    monkeypatch.setattr(fused, "launch", record)

    def run(shape, axis, dtype, kind, options):
        found.clear()
        x = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        if len(shape) == 5:  # in an order of its own
            x = x.permute(4, 0, 3, 1, 2).contiguous().permute(1, 3, 4, 2, 0)
        batch = shape[:axis] + shape[axis + 1 :]
        labels = torch.empty(batch, dtype=torch.int64, device="meta")
        labels = torch.empty_like(x) if kind == "dense" else labels
        options = dict(options)
        weight = torch.empty(shape[axis], device="meta") if options.pop("weights", False) else None
        given = {"label_smoothing": 0.0, "z_loss": 0.0} | options
        ignored = None if kind == "dense" else -100
        choice = Options(axis, ignored, **given, reduction="mean", check=False)
        call = prepare(BACKEND, Operands(x, labels, weight, None, None), choice)
        pair.loss_and_gradient(fused.KERNELS, call.plan, call.operands)
        return [variant_of(*launch) for launch in found]

    return run


def variant_of(kernel, arguments, constants):
    """What Triton compiles a launch by: kernel, types, constants and alignments, and warps."""
    constants = dict(constants)
    warps = constants.pop("num_warps")
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
    types, known, aligned = {}, {}, []
    general = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    for name in kernel.arg_names:
        value = values[name]
        if isinstance(value, torch.Tensor):
            types[name] = POINTERS[value.dtype]
            aligned.append(name)
        elif name in constants or value is None or (value == 1 and name not in general):
            types[name], known[name] = "constexpr", value
        else:
            types[name] = "i32" if abs(value) < 2**31 else "i64"
            if name not in general and value % 16 == 0:
                aligned.append(name)
    return kernel, tuple(types.items()), tuple(known.items()), tuple(aligned), warps


def compiled(variant, target):
    """A kernel as a device would load it."""
    kernel, types, known, aligned, warps = variant
    place = {name: (kernel.arg_names.index(name),) for name, _ in types}
    source = ASTSource(
        kernel,
        dict(types),
        {place[name]: value for name, value in known},
        {place[name]: [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": warps, "enable_fp_fusion": True}
    return triton.compile(source, target=target, options=options)


def spilled(kernel, folder):
    """The bytes of registers that had no place: what a thread keeps in memory."""
    if "amdgcn" in kernel.asm:
        return int(re.search(r"\.private_segment_fixed_size: *(\d+)", kernel.asm["amdgcn"])[1])
    file = folder / "kernel.cubin"
    file.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    told = subprocess.run(
        [tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True
    ).stdout
    return int(re.search(r"STACK:(\d+)", told)[1]) + int(re.search(r"LOCAL:(\d+)", told)[1])


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_for_devices_that_are_not_here(
    launched, monkeypatch, tmp_path, target
):
    """Each variant becomes a program, and none needs more registers than there are."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    for call in CALLS.values():
        for variant in launched(*call):
            assert spilled(compiled(variant, TARGETS[target]), tmp_path) == 0, variant


def test_a_call_is_three_launches_at_most(launched):
    """One for the gradient; one for the loss, or two where rows are split."""
    numbers = {name: len(launched(*call)) for name, call in CALLS.items()}
    assert {name for name, number in numbers.items() if number > 2} == {
        "few long rows", "dense, long rows, all options"
    }  # fmt: skip
    assert max(numbers.values()) == 3


def test_a_call_compiles_again_for_few_sizes(launched):
    """People pay for each variant at first use: the number of examples asks for no other one."""

    def variants(calls):
        return {variant for call in calls for variant in launched(*call)}

    rows = (1024, 2048, 3000, 4999, 8192)
    assert len(variants(((number, 32000), *PLAIN[1:]) for number in rows)) == 2
    sizes = (2, 3, 5, 10, 21, 100, 1000, 1024, 5000, 32000, 50257, 128256)
    shapes = itertools.product((4096, 8191), sizes)
    assert len(variants((shape, *PLAIN[1:]) for shape in shapes)) <= 2 * len(sizes)
