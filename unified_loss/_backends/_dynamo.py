"""What `torch.compile` sees of a call: one operation.

Dynamo interprets Python, which takes it longer for the rules and the arithmetic of one loss than
for many a model. So it puts a whole call into its graph as it is, and AOT Autograd, which runs
Python on fake tensors, expands it.
"""

from types import SimpleNamespace
from typing import Any

import torch

from unified_loss._backends._torch_ops import GRAPH_OPS, NAMES
from unified_loss._statistics import loss_and_gradient_of, loss_of
from unified_loss._types import Array, Size, Spec
from unified_loss.exceptions import ShapeError

KERNELS = {"loss": loss_of, "loss_and_gradient": loss_and_gradient_of}


@torch.compiler.allow_in_graph
def call(kernel: str, *arguments: Any) -> Any:
    """`kernel` of the backend on the arguments of `prepare`; no values are read, as none exist.

    Some compilers keep the call and run it on real tensors, where that must hold as well.
    """
    from unified_loss._arguments import prepare
    from unified_loss._backends import torch as backend

    blind = SimpleNamespace(**vars(backend) | {"read": _unread})
    try:
        _, plan, operands = prepare(blind, *arguments)
        return backend.run(KERNELS[kernel], GRAPH_OPS, plan, operands)
    except ShapeError:
        blind.spec = _spec_in_numbers
        prepare(blind, *arguments)  # numbers tell more of the mistake than symbols
        raise


def _spec_in_numbers(array: Array) -> Spec:
    """With the sizes that are traced with in place of symbols, for a call that is refused."""
    return Spec("torch", tuple(map(_number, array.shape)), NAMES[array.dtype])


def _number(size: Size) -> Size:
    is_open = isinstance(size, torch.SymInt) and not size.node.has_hint()
    return size if is_open else int(size)


def _unread(array: Any, *, wait: bool) -> None:
    return None
