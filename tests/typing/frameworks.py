"""What a type checker says of the frameworks' own arrays, and of the integrations."""

from typing import Any, assert_type

import jax
import numpy as np
import numpy.typing as npt
import torch

from unified_loss import cross_entropy, cross_entropy_with_grad
from unified_loss.integrations.keras import CrossEntropy
from unified_loss.integrations.torch import CrossEntropyLoss

Scores = npt.NDArray[np.float64]


def numpy_calls(logits: Scores, labels: list[int]) -> None:
    """Arrays keep their dtype; one number is a scalar."""
    assert_type(cross_entropy(logits, labels, reduction="none"), Scores)
    assert_type(cross_entropy(logits, labels), np.floating[Any])


def torch_calls(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """A tensor, whose methods are known."""
    assert_type(cross_entropy(logits, labels), torch.Tensor)
    assert_type(cross_entropy_with_grad(logits, labels), tuple[torch.Tensor, torch.Tensor])
    cross_entropy(logits, labels, label_smoothing=0.1).detach()
    cross_entropy(logits, labels).backwards()  # type: ignore[attr-defined]


def jax_calls(logits: jax.Array, labels: jax.Array) -> None:
    """An array, also through JAX's own transforms."""
    assert_type(cross_entropy(logits, labels), jax.Array)
    assert_type(cross_entropy_with_grad(logits, labels), tuple[jax.Array, jax.Array])
    jax.jit(jax.value_and_grad(cross_entropy))(logits, labels)
    jax.vmap(cross_entropy)(logits, labels)


def integrations(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Classes of their own, whose options are known."""
    assert_type(CrossEntropyLoss(label_smoothing=0.1), CrossEntropyLoss)
    assert_type(CrossEntropyLoss().forward(logits, labels), torch.Tensor)
    assert_type(CrossEntropy(reduction="sum_over_batch_size"), CrossEntropy)
    assert_type(CrossEntropy(reduction=None).get_config(), dict[str, Any])


def mistakes(logits: torch.Tensor, labels: jax.Array) -> None:
    """Each comment hides an error; a checker reports one that does not."""
    cross_entropy(logits, labels, reduction="average")  # type: ignore[call-overload]
    cross_entropy_with_grad(logits, labels, check="never")  # type: ignore[call-overload]
    CrossEntropyLoss(reduction="batchmean")  # type: ignore[arg-type]
    CrossEntropyLoss(-1)  # type: ignore[arg-type]
    CrossEntropy(reduction="avg")  # type: ignore[arg-type]
    CrossEntropy(label_smoothing="0.1")  # type: ignore[arg-type]
    CrossEntropy(from_logits=True)  # type: ignore[arg-type]
