"""PyTorch."""

from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch.nn import functional as F  # noqa: N812 (everyone's name for it)

from benchmarks.cases import BOTH, COMPILED, LIGER, TORCH_LINEAR, TWO_STEPS, Case
from benchmarks.frameworks._base import Framework, Inputs, Loss, Step, two_steps
from benchmarks.frameworks.numpy import eagerpy_recipe
from benchmarks.timers import EventTimer, WallTimer


def native(inputs: Inputs) -> Loss:
    """`F.cross_entropy`, which knows the classes on axis 1 alone."""
    options = {"class_weight": "weight", "label_smoothing": "label_smoothing"}
    keywords = {options[name]: value for name, value in inputs.options.items()}

    def loss(logits: Any, labels: Any) -> Any:
        return F.cross_entropy(logits, labels, **keywords)

    def flattened(logits: Any, labels: Any) -> Any:
        return loss(logits.reshape(-1, logits.shape[-1]), labels.flatten())

    return loss if inputs.axis == 1 or inputs.logits.ndim == 2 else flattened


def native_in_float32(inputs: Inputs) -> Loss:
    """As precise as ours: the logits cast first, as trainers do."""
    loss = native(inputs)
    return lambda logits, labels: loss(logits.float(), labels)


def compiled_native(inputs: Inputs) -> Loss:
    """By inductor, as precise as ours."""
    compiled: Loss = torch.compile(native_in_float32(inputs), fullgraph=True, dynamic=False)
    return compiled


def liger(inputs: Inputs) -> Loss:  # noqa: ARG001 (class ids on the last axis alone)
    """The kernel of Liger, which writes the gradient over the logits."""
    from liger_kernel.transformers.functional import liger_cross_entropy

    def loss(logits: Any, labels: Any) -> Any:
        found = liger_cross_entropy(logits, labels)
        return found[0] if isinstance(found, tuple) else found

    return loss


def two_steps_of_each(inputs: Inputs) -> Loss:
    """The logits and the native loss; of each row where they are not reduced."""
    upstream = inputs.upstream
    if upstream is None:
        return two_steps(native(inputs))
    return two_steps(
        lambda logits, labels: (F.cross_entropy(logits, labels, reduction="none") * upstream).sum()
    )


class Torch(Framework):
    """PyTorch."""

    packages = ("torch", "triton", "liger_kernel", "eagerpy")
    compiled_modes = ("compiled",)
    peers: ClassVar = {
        "F.cross_entropy": native,
        "F.cross_entropy(x.float())": native_in_float32,
        COMPILED: compiled_native,
        LIGER: liger,
        TWO_STEPS: two_steps_of_each,
        TORCH_LINEAR: lambda _: F.linear_cross_entropy,
        "eagerpy": eagerpy_recipe,
    }
    overwrites = frozenset({LIGER})

    @property
    def counts_peaks(self) -> bool:
        """The allocator of a GPU tells what is in use."""
        return self.device == "cuda"

    @cached_property
    def timer(self) -> WallTimer | EventTimer:
        """On a GPU, its own."""
        if self.device != "cuda":
            return super().timer
        return EventTimer(partial(torch.cuda.Event, enable_timing=True), self.wait)

    def copied(self, logits: Any) -> Any:
        """As a leaf of its own."""
        return logits.detach().clone()

    def copy(self, inputs: Inputs) -> Step:
        """By one operation."""
        return partial(torch.empty_like(inputs.logits).copy_, inputs.logits.detach())

    def assembled(self, loss: Loss, case: Case) -> Loss:
        """Only the loss is compiled; inductor makes its backward pass along with it."""
        if case.mode == "compiled":
            loss = self.compiled(loss, case.mode)
        return self.differentiated(loss, case) if case.direction == BOTH else loss

    def traced(self, loss: Loss, inputs: Inputs, mode: str) -> Step:
        """Dynamo alone."""
        inputs.logits.requires_grad_()

        def trace() -> Any:
            torch._dynamo.reset()  # noqa: SLF001 (has no public name)
            step = self.library.compiled(loss, backend="eager", dynamic=mode == "dynamic")
            return step(inputs.logits, inputs.labels).detach()

        return trace

    def laid_out(self, logits: Any, case: Case) -> Any:
        """By strides."""
        if case.layout == "sliced":
            return logits.repeat_interleave(2, 0)[::2]
        there = case.transposed_to
        return logits.movedim(case.axis, there).contiguous().movedim(there, case.axis)

    def wait(self, result: Any) -> None:  # noqa: ARG002
        """A GPU works on while Python goes on."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Dynamo refuses to compile the same code for more than a few cases."""
        torch.compiler.reset()

    def peak(self, step: Step) -> int:
        """On a GPU, by the caching allocator's own counter."""
        if self.device != "cuda":
            return super().peak(step)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = step()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        del result
        return int(peak - before)

    def device_name(self) -> str:
        """The GPU if there is one in use."""
        if self.device != "cuda":
            return super().device_name()
        return str(torch.cuda.get_device_name())


FRAMEWORK = Torch
