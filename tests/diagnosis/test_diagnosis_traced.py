"""What is left of a diagnosis where a compiler traces the call."""

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS
from unified_loss import LossInputError, ShapeError, cross_entropy

FIRST = (
    "labels must have shape (4,), the shape of logits (4, 3) without the class axis 1 (size 3), or "
    "the logits' whole shape, but have shape (12,)."
)


def backend_of(name):
    """A backend that is installed."""
    backend = BACKENDS[name]
    if not backend.is_installed():
        pytest.skip(f"{name} is not installed")
    return backend


def test_jit_keeps_type_and_attributes():
    """R25: under JAX the exception is our own, with the code in JAX."""
    backend = backend_of("jax")
    logits, labels = backend.asarray(np.zeros((4, 3))), backend.asarray(np.zeros(12, int))
    with pytest.raises(ShapeError) as caught:
        backend.trace(cross_entropy)(logits, labels)
    error = caught.value
    assert str(error).splitlines()[0] == FIRST
    assert error.cause == "labels_flattened_one_hot"
    assert "labels = jnp.reshape(labels, (4, 3))" in {fix.code for fix in error.fixes}


def test_graphs_of_tensorflow_keep_type_and_text():
    """R25: AutoGraph makes a new exception of the type, with the whole text."""
    tf = backend_of("tensorflow").library.xp

    @tf.function
    def loss(logits, labels):
        return cross_entropy(logits, labels)

    with pytest.raises(ShapeError) as caught:
        loss(tf.zeros((4, 3)), tf.zeros(12, tf.int64))
    assert FIRST in str(caught.value)
    assert "labels = tf.reshape(labels, (4, 3))" in str(caught.value)


def test_unknown_sizes_of_tensorflow_are_no_numbers():
    """R25: a batch that is unknown is no reading, and fits a reshape."""
    tf = backend_of("tensorflow").library.xp
    signature = [tf.TensorSpec((None, 3)), tf.TensorSpec((None, 5), tf.bool)]
    with pytest.raises(LossInputError, match=r"\(\?, 3\).* but have shape \(\?, 5\)"):
        tf.function(cross_entropy, input_signature=signature).get_concrete_function()


@pytest.mark.parametrize("dynamic", [False, True, None])
def test_dynamo_keeps_the_first_line(dynamic):
    """R25: under torch.compile the text survives, also after calls of other sizes."""
    torch = backend_of("torch").library.xp
    torch._dynamo.reset()
    loss = torch.compile(cross_entropy, fullgraph=True, backend="eager", dynamic=dynamic)
    loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - a type of torch
        loss(torch.zeros(4, 3), torch.zeros(12, dtype=torch.int64))
    assert FIRST in str(caught.value)
    assert "labels_flattened_one_hot" in str(caught.value)


def test_symbolic_sizes_of_torch_are_not_guarded():
    """R23, R25: a failed export leaves nothing but the message."""
    torch = backend_of("torch").library.xp

    class Loss(torch.nn.Module):
        def forward(self, logits, labels):
            return cross_entropy(logits, labels)

    arguments = torch.zeros(4, 3), torch.zeros(4, 5, dtype=torch.bool)
    batch = torch.export.Dim("batch")
    with pytest.raises(Exception, match="but have shape"):
        torch.export.export(Loss(), arguments, dynamic_shapes=({0: batch}, {0: batch}))
