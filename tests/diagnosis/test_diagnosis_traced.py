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


def vmaps(name, function, places):
    """A function that is mapped, and one of its gradient, over the first axes of some arguments."""
    xp = backend_of(name).library.package
    vmap, grad = (xp.vmap, xp.grad) if name == "jax" else (xp.func.vmap, xp.func.grad)
    return vmap(function, places), vmap(grad(function), places)


@pytest.mark.parametrize("name", ["jax", "torch"])
@pytest.mark.parametrize("shape", [(32, 10), (10, 10)])
def test_an_axis_that_vmap_took_is_told(name, shape):
    """R25: from one side alone it is the cause, in the words of the library."""
    backend = backend_of(name)
    logits, labels = backend.asarray(np.zeros(shape)), backend.asarray(np.zeros(shape[0], int))
    word = {"jax": "in_axes", "torch": "in_dims"}[name]
    for places, one in (((0, None), "logits"), ((None, 0), "labels")):
        for function in vmaps(name, cross_entropy, places):
            with pytest.raises(ShapeError) as caught:
                function(logits, labels)
            error = caught.value
            assert error.cause == "mapped_on_one_side"
            assert f"vmap took an axis of {shape[0]} from the {one} alone" in str(error)
            assert str(error).splitlines()[1].count("in vmap of ") == 1
            assert f"{word}=(0, 0)" in error.fixes[0].text
    for function in vmaps(name, cross_entropy, (0, 0)):
        function(logits, labels)


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_axes_that_vmaps_took_from_both_are_facts(name):
    """R25: with another cause beside them, within each other, and where nobody can know."""
    backend = backend_of(name)
    arrays = backend.asarray(np.zeros((4, 32, 5, 3))), backend.asarray(np.zeros((4, 32, 15), int))
    inner = vmaps(name, cross_entropy, 0 if name == "jax" else (0, 0))[0]
    with pytest.raises(ShapeError) as caught:
        vmaps(name, inner, (0, 0))[0](*arrays)
    assert caught.value.cause == "labels_flattened_one_hot"
    assert str(caught.value).splitlines()[1].count(" in vmap of 4 x 32") == 2
    if name == "jax":
        jitted = backend.library.package.jit(cross_entropy)
        with pytest.raises(ShapeError) as caught:
            vmaps(name, jitted, (0, None))[0](arrays[0][0], arrays[1][0, :, 0])
        assert "vmap" not in str(caught.value)
