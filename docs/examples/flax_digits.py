"""A Flax NNX model of handwritten digits, trained with optax: the loss needs no wrapper."""

import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

from unified_loss import cross_entropy

images, digits = load_digits(return_X_y=True)
pixels, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(digits)

rngs = nnx.Rngs(0)
model = nnx.Sequential(nnx.Linear(64, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 10, rngs=rngs))
optimizer = nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param)


def loss_of(model):
    """The loss on all images."""
    return cross_entropy(model(pixels), labels, label_smoothing=0.1)


@nnx.jit
def train_step(model, optimizer):
    """One step."""
    loss, gradient = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradient)
    return loss


losses = [float(train_step(model, optimizer)) for _ in range(100)]
accuracy = float((model(pixels).argmax(-1) == labels).mean())
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, accuracy {accuracy:.3f}")
assert accuracy > 0.95
