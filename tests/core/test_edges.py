"""Corners where a library, a dtype or an unknown size once led to another meaning."""

import warnings

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS
from tests.helpers.problems import sample
from unified_loss import DTypeError, LabelError, OptionError, cross_entropy, cross_entropy_with_grad

ZEROS = np.zeros((3, 4), np.float32)
FOREIGN = np.array([0, 1, 255], np.uint8)


def library(name, installed):
    """The package of a library, unless it is not under test."""
    if BACKENDS[name] not in installed:
        pytest.skip(f"{name} is not under test")
    return BACKENDS[name].library.package


@pytest.mark.parametrize("width", ["uint8", "uint16", "uint32", "uint64"])
def test_host_labels_out_of_range_are_dropped_by_a_zero_weight(backend, width):
    """R6, R16, R17: unsigned host labels that no class has become no other id."""
    loss = cross_entropy(
        backend.asarray(ZEROS, "float32"), FOREIGN.astype(width), sample_weight=[1, 1, 0]
    )
    np.testing.assert_allclose(backend.to_numpy(loss), np.log(4), rtol=1e-6)


def test_host_labels_out_of_range_poison_their_row_where_weights_are_unknown(installed):
    """R17: under `jit` with traced weights the row of a wrong host label alone is NaN."""
    jax = library("jax", installed)
    step = jax.jit(
        lambda x, s: cross_entropy(x, FOREIGN, sample_weight=s, reduction="none", check="auto")
    )
    np.testing.assert_array_equal(
        np.isnan(step(ZEROS + jax.numpy.zeros(1), jax.numpy.ones(3))), [0, 0, 1]
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_host_labels_beside_an_unknown_number_of_classes_are_compared_in_the_graph(
    installed, compiled
):
    """R17: a host label that turns out to be no class makes its example NaN, and is never read."""
    tf = library("tensorflow", installed)
    step = tf.function(
        lambda x: cross_entropy(x, [0, 1, 9], reduction="none"),
        input_signature=[tf.TensorSpec([None, None])],
        jit_compile=compiled,
    )
    np.testing.assert_array_equal(np.isnan(step(tf.zeros((3, 4)))), [0, 0, 1])


def test_normalizer_of_unknown_rank_must_be_a_number_when_the_graph_runs(installed):
    """R8: a normalizer is compared with () in the graph where tracing does not know its rank."""
    tf = library("tensorflow", installed)
    step = tf.function(
        lambda n: cross_entropy(tf.zeros((2, 3)), tf.constant([0, 1]), normalizer=n),
        input_signature=[tf.TensorSpec(None)],
    )
    np.testing.assert_allclose(step(tf.constant(2.0)), np.log(3), rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="normalizer"):
        step(tf.ones(2))


def test_zero_weights_learn_from_the_gradient_in_the_logits(installed):
    """R16, R22: the derivative of the logits' gradient in a weight of zero is the true one."""
    tf = library("tensorflow", installed)
    x = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]], np.float32)
    v = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]], np.float32)
    labels, weights = np.array([0, 2]), tf.Variable([0.0, 0.0])
    logits = tf.constant(x)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            inner.watch(logits)
            loss = cross_entropy(logits, labels, sample_weight=weights, reduction="sum")
        along = tf.reduce_sum(inner.gradient(loss, logits) * v)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    truth = ((p - np.eye(3)[labels]) * v).sum(1)
    np.testing.assert_allclose(outer.gradient(along, weights), truth, rtol=1e-5)


def test_other_devices_of_a_namespace_are_served_there(installed):
    """R2, R17, R21: the result is on the logits' device; labels there are read on demand alone."""
    xp = library("array_api_strict", installed)
    there = xp.Device("device1")
    logits, labels = (xp.asarray(a, device=there) for a in (ZEROS, np.array([0, 1, 9])))
    for part in cross_entropy_with_grad(logits, [0, 1, 2]):
        assert part.device == there
    assert np.isnan(float(cross_entropy(logits, labels)))
    with pytest.raises(LabelError):
        cross_entropy(logits, labels, check=True)


def test_bfloat16_values_are_read_in_torch(installed):
    """R8, R17: values in bfloat16, which NumPy has not, are looked at like others."""
    torch = library("torch", installed)
    logits, half = torch.zeros(2, 3), torch.bfloat16
    with pytest.raises(LabelError):
        cross_entropy(logits, torch.tensor([0, 7]), sample_weight=torch.ones(2, dtype=half))
    with pytest.raises(LabelError):
        cross_entropy(logits, torch.full((2, 3), -5.0, dtype=half), check=True)
    with pytest.raises(OptionError):
        cross_entropy(logits, torch.tensor([0, 1]), normalizer=torch.tensor(-2.0, dtype=half))


def test_read_only_host_data_joins_tensors_without_a_warning(installed):
    """R21: nothing is written, so torch has nothing to warn of."""
    torch = library("torch", installed)
    rows = np.array([[0.5, 0.5]], np.float32)
    rows.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cross_entropy(torch.zeros(1, 2), rows)


@pytest.mark.parametrize("width", ["int2", "int4", "uint2", "uint4"])
def test_small_integers_are_class_ids(installed, width):
    """R4: class ids may be of any integer dtype that a library has."""
    jax = library("jax", installed)
    logits, labels = jax.numpy.zeros((2, 3)), jax.numpy.array([0, 1], dtype=width)
    for loss in (cross_entropy, jax.jit(cross_entropy)):
        np.testing.assert_allclose(loss(logits, labels), np.log(3), rtol=1e-6)


def test_arrays_of_no_numbers_are_refused_unread(installed):
    """R4, R25: keys of a random generator are no labels, whatever reading them would raise."""
    jax = library("jax", installed)
    with pytest.raises(DTypeError):
        cross_entropy(jax.numpy.zeros((2, 3)), jax.random.key(0))


@pytest.mark.parametrize("classes", [5, 40_000])
def test_one_example_costs_a_numpy_scalar(classes):
    """R21: without a batch axis NumPy gives its scalar, whatever kernel computes it."""
    loss = cross_entropy(np.zeros(classes), 3, reduction="none")
    assert isinstance(loss, np.float64)


@pytest.mark.skip_backend("mlx", reason="its own logsumexp adds one by one as well")
@pytest.mark.skip_backend("tensorflow", reason="its own reduce_logsumexp errs as much")
def test_long_rows_on_a_leading_axis_are_summed_as_well_as_elsewhere(backend, rng):
    """R20: 100,000 classes on axis 0 cost no digits, where adding one by one would."""
    x = (5 * rng.standard_normal((100_000, 8))).astype(np.float32)
    labels = np.arange(8)
    ours = cross_entropy(backend.asarray(x, "float32"), labels, axis=0, reduction="none")
    truth = cross_entropy(x.astype(np.float64), labels, axis=0, reduction="none")
    np.testing.assert_allclose(backend.to_numpy(ours), truth, rtol=2e-6)


def test_largest_unsigned_id_can_be_ignored(backend):
    """R6: ids of 64 bits are compared by value, also beyond those that have a sign."""
    last = 2**64 - 1
    labels = np.array([0, 1, last], np.uint64)
    if backend.name == "jax":
        last, labels = 2**32 - 1, np.array([0, 1, 2**32 - 1], np.uint32)
    logits = backend.asarray(ZEROS, "float32")
    loss = cross_entropy(logits, backend.asarray(labels, labels.dtype.name), ignore_index=last)
    np.testing.assert_allclose(backend.to_numpy(loss), np.log(4), rtol=1e-6)


def test_examples_of_an_unknown_batch_are_counted_in_the_graph(installed):
    """R12, R23: where nothing can be dropped, the mean divides by a number that tracing lacks."""
    tf = library("tensorflow", installed)
    step = tf.function(
        lambda x, y: cross_entropy(x, y, ignore_index=None),
        input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)],
    )
    for rows in (0, 1, 7):
        loss = step(tf.zeros((rows, 4)), tf.zeros(rows, tf.int32))
        np.testing.assert_allclose(loss, np.log(4) if rows else 0, rtol=1e-6)


def test_no_logits_look_like_no_softmax_output(backend):
    """R9, R17: an empty batch under ``check=True`` is looked at and found fine."""
    logits = backend.asarray(np.zeros((0, 3)), "float32")
    assert float(backend.to_numpy(cross_entropy(logits, np.zeros(0, int), check=True))) == 0


@pytest.mark.parametrize("batch", [(0,), (2, 0), (0, 3), (2, 0, 3)])
def test_any_empty_batch_costs_nothing(backend, batch):
    """R9, R15: wherever the empty axis is, sum and mean over no example are 0."""
    logits = backend.asarray(np.zeros((*batch, 3)), "float32")
    for reduction in ("sum", "mean"):
        loss = cross_entropy(logits, np.zeros(batch, int), axis=-1, reduction=reduction)
        assert float(backend.to_numpy(loss)) == 0


@pytest.mark.needs_autodiff
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize(("batch", "classes"), [((0,), 1), ((0,), 4), ((2, 0), 4)])
@pytest.mark.filterwarnings("ignore::unified_loss.SingleClassWarning")
def test_an_empty_batch_moves_no_weight(backend, batch, classes, kind, reduction, rng):
    """R15, R22: gradients are 0 in all that has a size, and not what memory held before."""
    options = {"class_weight": True, "label_smoothing": 0.25, "reduction": reduction}
    problem = sample(rng, kind, batch=batch, classes=classes, **options).but(ignore_index=None)
    names = ["logits", *(["labels"] if kind == "dense" else []), "class_weight"]
    slopes = backend.gradients(problem, "float32", wrt=names)
    for name, slope in zip(names, slopes, strict=True):
        assert slope.shape == getattr(problem, name).shape
        assert not slope.any()
