"""What `torch.compile` sees of a call: one operation.

Dynamo interprets Python, which takes it longer for the rules and the arithmetic of one loss than
for many a model. So it puts a whole call into its graph as it is, and AOT Autograd, which runs
Python on fake tensors, expands it.
"""

from typing import Any

import torch

from unified_loss import _messages as messages
from unified_loss._backends import _torch_linear as linear
from unified_loss._backends._torch_compat import guard_or_false, has_static_value, is_exporting
from unified_loss._backends._torch_ops import GRAPH_OPS, NAMES
from unified_loss._backends.torch import TorchBackend, run
from unified_loss._call import prepare
from unified_loss._linear_call import prepare as prepare_linear
from unified_loss._shapes import fits
from unified_loss._split_classes import loss_and_gradient_of, loss_of
from unified_loss._sums import sums_of
from unified_loss._types import Array, Head, Operands, Options, Shape, Size, Spec
from unified_loss.exceptions import BackendError, ShapeError

_NUMBERS = (int, float)  # `int | float` is a type that Dynamo of torch 2.9 cannot wrap
ENTRIES = {"loss": loss_of, "loss_and_gradient": loss_and_gradient_of, "sums": sums_of}


def enter(  # pragma: no cover (Dynamo reads this, and runs it elsewhere)
    entry: str, arrays: Operands, options: Options
) -> Any:
    """`call`, after what Dynamo alone can know: which numbers are those of this batch only."""
    logits, labels, class_weight, sample_weight, normalizer = arrays
    if normalizer is not None:  # each function that Dynamo reads costs a thousand calls
        normalizer = _open(normalizer, logits)
    if options.class_group is not None:
        options = options._replace(class_group=_group_name(options.class_group))
    axis, *others = options
    if axis is None and logits.ndim > 2 and isinstance(labels, torch.Tensor):
        axis = _static_axis(logits.shape, labels.shape)
    arguments = logits, labels, class_weight, sample_weight, normalizer
    return call(entry, *arguments, axis, *others)


def enter_linear(  # pragma: no cover (Dynamo reads this, and runs it elsewhere)
    entry: str, head: Head, arrays: Operands, options: Options, softcap: Any
) -> Any:
    """The same for the linear form."""
    _, labels, class_weight, sample_weight, normalizer = arrays
    if normalizer is not None:
        normalizer = _open(normalizer, head.hidden)
    if options.class_group is not None:
        options = options._replace(class_group=_group_name(options.class_group))
    arguments = labels, class_weight, sample_weight, normalizer
    found = linear_call(entry, softcap, *head, *arguments, *options)
    if entry != "linear_loss_and_gradients":
        return found
    loss, *gradients = found
    return loss, (*gradients, *[None] * (3 - len(gradients)))


def _open(  # pragma: no cover (Dynamo reads this, and runs it elsewhere)
    normalizer: Any, like: Array
) -> Any:
    """A number that is another one in each step, and so no constant."""
    # Bounds of `rules.HELD`, written out: Dynamo takes a number from elsewhere for an input.
    if isinstance(normalizer, _NUMBERS) and 2.0**-150 < normalizer < 2.0**128 - 2.0**103:
        return normalizer * torch.ones((), dtype=_wide(like.dtype), device=like.device)
    return normalizer


def _group_name(group: Any) -> Any:  # pragma: no cover (Dynamo reads this, and runs it elsewhere)
    """The name of a group, which a graph can hold."""
    if isinstance(group, torch.distributed.device_mesh.DeviceMesh) and group.ndim == 1:
        group = group.get_group()
    if isinstance(group, torch.distributed.ProcessGroup):
        return group.group_name
    return group


def _wide(
    dtype: torch.dtype,
) -> torch.dtype:  # pragma: no cover (Dynamo reads this, and runs it elsewhere)
    return torch.float64 if dtype == torch.float64 else torch.float32


def _static_axis(  # pragma: no cover (Dynamo reads this, and runs it elsewhere)
    logits: Shape, labels: Shape
) -> int | None:
    """R3: the one candidate whose size is that of all batches, if the labels fit it in all."""
    static = [axis for axis in (1, len(logits) - 1) if has_static_value(logits[axis])]
    if len(static) == 1 and fits(logits, labels, static[0], _same_always) is True:
        return static[0]
    return None


def _same_always(  # pragma: no cover (Dynamo reads this, and runs it elsewhere)
    a: Size, b: Size
) -> bool | None:
    """Whether sizes are equal in all batches, under a guard."""
    return has_static_value(a) == has_static_value(b) and guard_or_false(a == b)


@torch.compiler.allow_in_graph
def call(entry: str, *arguments: Any) -> Any:
    """`entry` of the backend on the arguments of a call; no values are read, as none exist.

    Some compilers keep the call and run it on real tensors, where that must hold as well.
    """
    if entry not in ENTRIES:
        raise BackendError(messages.no_values_yet())
    number = len(Operands._fields)
    arrays, options = Operands(*arguments[:number]), Options(*arguments[number:])
    try:
        _, plan, operands, _ = prepare(Traced(), arrays, options)
        return run(ENTRIES[entry], GRAPH_OPS, plan, operands)
    except ShapeError:
        prepare(InNumbers(), arrays, options)  # which tell more of the mistake than symbols
        raise


@torch.compiler.allow_in_graph
def linear_call(entry: str, softcap: Any, *arguments: Any) -> Any:
    """`entry` of the linear form, without a tuple in the result."""
    if entry == "linear_deliver":
        raise BackendError(messages.no_values_yet("linear_cross_entropy_totals"))
    hidden, weight, bias, *operands = arguments[:7]
    head, arrays, options = (
        Head(hidden, weight, bias),
        Operands(None, *operands),
        Options(*arguments[7:]),
    )
    try:
        form, head, arrays, _ = prepare_linear(Traced(), head, arrays, options, softcap)
    except ShapeError:
        prepare_linear(InNumbers(), head, arrays, options, softcap)
        raise
    if entry == "linear_loss":
        return linear.traced_loss(run, form, head, arrays)
    if entry == "linear_sums":
        return linear.traced_sums(run, form, head, arrays)
    loss, gradients = linear.traced_loss_and_gradients(run, form, head, arrays)
    return (loss, *(part for part in gradients if part is not None))


class Traced(TorchBackend):
    """Torch where no values exist, and sizes are known under a guard."""

    def read(self, array: Array, *, wait: bool) -> None:
        """Nothing is read."""

    def outline(self, *arrays: Array | None) -> None:
        """Each call is traced anew."""

    def group(self, group: Any) -> Any:
        """The group, which the graph has by its name."""
        from unified_loss._backends import _torch_split  # which imports torch.distributed

        return super().group(_torch_split.group_named(group))

    def same_size(self, a: Size, b: Size) -> bool | None:
        """Whether sizes are equal, which those with values are asked under a guard.

        A size that is equal to a constant today is so by coincidence.
        """
        if is_exporting():
            return super().same_size(a, b)
        if isinstance(a, torch.SymInt) == isinstance(b, torch.SymInt) and guard_or_false(a == b):
            return True
        return False if guard_or_false(a != b) else None


class InNumbers(Traced):
    """The same with the sizes that are traced with in place of symbols, for what is refused."""

    def spec(self, array: Array) -> Spec:
        return Spec(self.name, tuple(map(_number, array.shape)), NAMES[array.dtype])


def _number(size: Size) -> Size:
    is_open = isinstance(size, torch.SymInt) and not size.node.has_hint()
    return size if is_open else int(size)
