"""What PyTorch's operations move, counted as they are dispatched."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Views, and memory that nobody has written to.
FREE = {"_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided",
        "expand", "new_empty", "permute", "reshape", "select", "slice", "squeeze", "t",
        "transpose", "unsqueeze", "view"}  # fmt: skip
SPARSE = {"gather", "nll_loss_forward", "scatter_"}  # touch one entry a row
WRITING = {"nll_loss_backward"}  # reads nothing that is large
OUT = ("out", "grad_input")


class Traffic(TorchDispatchMode):
    """Counts operations, and the bytes of all that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, int]] = []

    @property
    def bytes(self) -> int:
        """All that was moved."""
        return sum(size for _, size in self.operations)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and enter it."""
        kwargs = kwargs or {}
        found = function(*args, **kwargs)
        name = function.__name__.partition(".")[0]
        if name not in FREE:
            given = [
                args[name == "copy_" :],
                {key: value for key, value in kwargs.items() if key not in OUT},
            ]
            read = 0 if name in SPARSE | WRITING else _bytes(given)
            written = 0 if name in SPARSE else _bytes(found)
            if name == "log_softmax" and args[0].dtype != found.dtype:
                written *= 3  # a copy in the other dtype, which is read again
            self.operations.append((name, read + written))
        return found


def _bytes(tree: Any) -> int:
    """What tensors have in memory; entries that are repeated count once."""
    total = 0
    for tensor in tree_leaves(tree):
        if isinstance(tensor, torch.Tensor):
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            entries = 1
            for size, step in steps:
                entries *= size if step or not size else 1
            total += entries * tensor.element_size()
    return total
