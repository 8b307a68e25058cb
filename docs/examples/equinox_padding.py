"""An Equinox model on padded sequences: which class dominates so far, at every position."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from unified_loss import cross_entropy

BATCH, LENGTH, TOKENS = 32, 12, 5

token_key, length_key, model_key = jax.random.split(jax.random.key(0), 3)
tokens = jax.random.randint(token_key, (BATCH, LENGTH), 0, TOKENS)
counts = jnp.cumsum(jax.nn.one_hot(tokens, TOKENS), axis=1)
lengths = jax.random.randint(length_key, (BATCH, 1), 4, LENGTH + 1)
is_real = jnp.arange(LENGTH) < lengths
labels = jnp.where(is_real, counts.argmax(-1), -100)  # padding is ignored

model = eqx.nn.MLP(TOKENS, TOKENS, width_size=32, depth=1, key=model_key)
optimizer = optax.adam(0.01)
state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))


def loss_of(model):
    """The mean over all positions that are no padding."""
    logits = jax.vmap(jax.vmap(model))(counts)
    return cross_entropy(logits, labels)


@eqx.filter_jit
def train_step(model, state):
    """One step."""
    loss, gradient = eqx.filter_value_and_grad(loss_of)(model)
    updates, state = optimizer.update(gradient, state)
    return eqx.apply_updates(model, updates), state, loss


losses = []
for _ in range(150):
    model, state, loss = train_step(model, state)
    losses.append(float(loss))
print(f"{int(is_real.sum())} of {labels.size} positions count")
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}")
assert losses[-1] < losses[0] / 4
