"""What pyright says of TensorFlow's tensors; for mypy, TensorFlow has no types."""

from typing import assert_type

import tensorflow as tf

from unified_loss import cross_entropy, cross_entropy_with_grad


def tensorflow_calls(logits: tf.Tensor, labels: tf.Tensor) -> None:
    """A tensor."""
    assert_type(cross_entropy(logits, labels), tf.Tensor)
    assert_type(cross_entropy_with_grad(logits, labels), tuple[tf.Tensor, tf.Tensor])
    cross_entropy(logits, labels, reduction="average")  # type: ignore[call-overload]
