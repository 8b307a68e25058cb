"""What pyright says of TensorFlow's tensors; for mypy, TensorFlow has no types."""

from typing import Any, assert_type

import tensorflow as tf

from unified_loss import cross_entropy, cross_entropy_with_grad


def tensorflow_calls(logits: tf.Tensor, labels: tf.Tensor) -> None:
    """A tensor."""
    assert_type(cross_entropy(logits, labels), tf.Tensor)
    loss, gradient = cross_entropy_with_grad(logits, labels)
    assert_type((loss, gradient), tuple[Any, Any])
    cross_entropy(logits, labels, reduction="average")  # type: ignore[call-overload]
