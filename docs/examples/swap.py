"""A training step written once, and run on NumPy, PyTorch, JAX and TensorFlow arrays."""

import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch
from sklearn.datasets import load_digits

from unified_loss import cross_entropy_with_grad

STEPS = 50
RATE = 0.5


def train_step(weights, pixels, pixels_transposed, labels):
    """One step of gradient descent on a softmax regression, in any library."""
    loss, gradient = cross_entropy_with_grad(pixels @ weights, labels)
    return loss, weights - RATE * (pixels_transposed @ gradient)


def train(asarray):
    """The loss before every step; `asarray` decides on the library."""
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    weights = asarray(np.zeros((64, 10), np.float32))
    pixels, pixels_transposed = asarray(images), asarray(images.T.copy())
    labels = asarray(digits.astype(np.int32))
    losses = []
    for _ in range(STEPS):
        loss, weights = train_step(weights, pixels, pixels_transposed, labels)
        losses.append(float(loss))
    return losses


curves = {
    "NumPy": train(np.asarray),
    "PyTorch": train(torch.from_numpy),
    "JAX": train(jnp.asarray),
    "TensorFlow": train(tf.constant),
}
for library, losses in curves.items():
    print(f"{library:10}  loss {losses[0]:.6f} -> {losses[-1]:.6f}")
    assert losses[-1] < losses[0] / 2
    assert np.allclose(losses, curves["NumPy"], rtol=0, atol=1e-5)
