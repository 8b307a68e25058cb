"""Small calls: what stands in for the row statistics gives their numbers, or leaves it to them."""

import importlib
from typing import NamedTuple

import numpy as np
import pytest

from tests.helpers.accuracy import assert_accurate, assert_everything
from tests.helpers.backends import BACKENDS, INTEGERS, Backend
from tests.helpers.differentiation import hessian
from tests.helpers.problems import sample
from unified_loss import LabelError, _plan, cross_entropy
from unified_loss._blocks import LONG

SHORTCUTS = {
    "numpy": ("short", "bare"),
    "torch": ("native_loss",),
    "tensorflow": ("native_loss",),
}
OWN = ("torch", "tensorflow")  # whose shortcut is the loss of the library


class Shortcut(NamedTuple):
    """A backend, its module, the names of its shortcuts, and what those have returned so far."""

    backend: Backend
    module: object
    names: tuple[str, ...]
    results: list


@pytest.fixture(params=SHORTCUTS)
def shortcut(request, installed, monkeypatch):
    """A backend with a shortcut, which is watched."""
    backend, names = BACKENDS[request.param], SHORTCUTS[request.param]
    if backend not in installed:
        pytest.skip(f"{backend.name} is not under test")
    module = importlib.import_module(f"unified_loss._backends.{backend.name}")
    results = []

    def watch(name):
        original = getattr(module, name)

        def watched(*arguments, **options):
            found = original(*arguments, **options)
            results.append(getattr(found, "loss", found))
            return found

        monkeypatch.setattr(module, name, watched)

    for name in names:
        watch(name)
    return Shortcut(backend, module, names, results)


def plain(rng, **options):
    """A problem that a shortcut may serve on every backend."""
    problem = sample(rng, **options)
    return problem.but(labels=problem.labels.astype(np.int64))


LAYOUTS = {
    "rows": {"batch": (7,)},
    "one": {"batch": ()},
    "sequences": {"batch": (2, 3)},
    "kept": {"batch": (7,), "kind": "kept"},
    "kept sequences": {"batch": (2, 3), "kind": "kept"},
    "many classes": {"batch": (7,), "classes": 70},
    "many classes of sequences": {"batch": (2, 3), "classes": 70},
    "two classes": {"batch": (40,), "classes": 2},
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_plain_calls_are_served_and_accurate(shortcut, monkeypatch, layout, dtype, reduction, rng):
    """R14, R20, R22: loss and gradient, of the dtype and kind that the row statistics give."""
    problem = plain(rng, reduction=reduction, **LAYOUTS[layout])
    assert_everything(shortcut.backend, "eager", problem, dtype)
    assert shortcut.results
    assert all(result is not None for result in shortcut.results)
    short = shortcut.backend.call(problem, dtype)
    assert short is shortcut.results[-1]
    for name in shortcut.names:
        monkeypatch.setattr(shortcut.module, name, lambda *_, **__: None)
    long = shortcut.backend.call(problem, dtype)
    assert type(short) is type(long)
    assert (short.dtype, short.shape) == (long.dtype, long.shape)


OTHERS = {
    "unreduced": {"reduction": "none"},
    "ignored": {"ignored": 2},
    "class weights": {"class_weight": True},
    "sample weights": {"sample_weight": "full"},
    "mask": {"sample_weight": "mask"},
    "smoothing": {"label_smoothing": 0.25},
    "z-loss": {"z_loss": 0.5},
    "normalizer": {"normalizer": 3.0},
    "dense": {"kind": "dense"},
    "channels first": {"batch": (2, 3), "class_axis": 1},
}


# What the losses of libraries know as well, or is written with them.
OWN_OPTIONS = "ignored", "class weights", "smoothing"
KNOWN = tuple(OTHERS.keys() - {"z-loss"})
# What takes NumPy no care, in any layout.
KNOWN_TO_NUMPY = (*OWN_OPTIONS, "dense", "channels first")


OF_CHANNELS = (*OWN_OPTIONS, "channels first")
WEIGHTED = [
    (*case, *others)
    for case in (("sample weights",), ("mask",), ("unreduced",), ("unreduced", "sample weights"))
    for others in (OWN_OPTIONS, OF_CHANNELS, ("dense", "class weights", "smoothing"))
]


@pytest.mark.parametrize("case", OTHERS)
def test_other_calls_are_left_to_the_row_statistics(shortcut, case, rng):
    """R10 to R14: whatever has an option that the shortcut does not know, or another axis."""
    if case in (KNOWN if shortcut.backend.name in OWN else KNOWN_TO_NUMPY):
        pytest.skip("the shortcut serves it")
    problem = sample(rng, **OTHERS[case])
    if problem.has_index_labels:
        problem = problem.but(labels=problem.labels.astype(np.int64))
    assert_everything(shortcut.backend, "eager", problem, "float32")
    assert not any(result is not None for result in shortcut.results)


@pytest.mark.parametrize("shortcut", ["numpy"], indirect=True)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("classes", [5, 70])
@pytest.mark.parametrize("batch", [((40,), 0), ((3, 8), 1), ((3, 8), 2)], ids=str)
@pytest.mark.parametrize("labels", ["index", "dense"])
def test_numpy_serves_options_in_any_layout(shortcut, labels, batch, classes, reduction, rng):
    """R10 to R14: loss and gradient; a row that takes care is left to the row statistics."""
    sizes = {"kind": labels, "batch": batch[0], "class_axis": batch[1], "classes": classes}
    names = ["class weights", "smoothing", *["ignored"] * (labels == "index")]
    for chosen in ((), *((name,) for name in names), names):
        options = {key: value for name in chosen for key, value in OTHERS[name].items()}
        problem = sample(rng, reduction=reduction, **sizes, **options)
        assert_everything(shortcut.backend, "eager", problem, "float32")
        _, slope = shortcut.backend.closed_form(problem, "float32")
        assert slope.flags.c_contiguous
        assert all(result is not None for result in shortcut.results)
        if classes == 5:
            broken = spoiled(problem, (0,) * problem.logits.ndim, np.nan)
            assert_everything(shortcut.backend, "eager", broken, "float32")
            assert shortcut.results[-1] is None
        shortcut.results.clear()


@pytest.mark.parametrize("shortcut", ["numpy"], indirect=True)
def test_numpy_does_not_serve_rows_without_labels(shortcut, rng):
    """R12, R16: a row of zeros is dropped, with its mass."""
    problem = sample(rng, "dense", batch=(7,))
    problem.labels[3] = 0
    assert_everything(shortcut.backend, "eager", problem, "float32")
    assert shortcut.results
    assert all(result is None for result in shortcut.results)


@pytest.fixture
def own_loss(shortcut):
    """A shortcut that is the loss of its library."""
    if shortcut.backend.name not in OWN:
        pytest.skip("NumPy has no loss")
    return shortcut


@pytest.mark.parametrize("kind", ["index", "kept", "dense"])
@pytest.mark.parametrize(("batch", "axis"), [((40,), 0), ((40, 1), 1), ((5, 8, 1), 2)])
def test_rows_of_any_layout_are_served_in_several_parts(own_loss, kind, batch, axis, rng):
    """R20: where they are added one by one, exponentials of many rare classes lose digits."""
    problem = sample(rng, kind, batch=batch, class_axis=axis, classes=300)
    logits = np.full_like(problem.logits, -11.5)
    np.moveaxis(logits, axis, 0)[0] = 0
    labels = logits == 0 if kind == "dense" else np.zeros_like(problem.labels)
    for one in (problem, problem.but(logits=logits, labels=labels)):
        assert_accurate(own_loss.backend.loss(one, "float32"), one, "float32")
        (gradient,) = own_loss.backend.gradients(one, "float32")
        assert_accurate(gradient, one, "float32", "gradient")
    assert own_loss.results
    assert all(result is not None for result in own_loss.results)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "options",
    [*((name,) for name in sorted(KNOWN)), OWN_OPTIONS, OF_CHANNELS, *WEIGHTED],
    ids=", ".join,
)
def test_libraries_serve_their_own_options(own_loss, options, reduction, rng):
    """R10, R12, R14: with the same mass, and the same gradient."""
    options = {name: value for case in options for name, value in OTHERS[case].items()}
    options = {"batch": (7,), "reduction": reduction} | options
    if "normalizer" in options:
        options["reduction"] = "mean"
    problem = sample(rng, **options)
    if problem.has_index_labels:
        problem = problem.but(labels=problem.labels.astype(np.int64))
    assert_everything(own_loss.backend, "eager", problem, "float32")
    assert own_loss.results
    assert all(result is not None for result in own_loss.results)


@pytest.mark.parametrize("ignored", [-100, 1, 255])
@pytest.mark.parametrize("weighted", [False, True])
def test_ignored_examples_have_no_mass(own_loss, ignored, weighted, rng):
    """R10, R15: beside sample weights, whichever number it is that ignores."""
    problem = sample(rng, batch=(7,), class_weight=weighted, sample_weight="full")
    labels = np.where(np.arange(7) < 3, ignored, np.where(problem.labels == 1, 0, problem.labels))
    for some in (labels, np.full_like(labels, ignored)):
        problem = problem.but(labels=some.astype(np.int64), ignore_index=ignored)
        assert_everything(own_loss.backend, "eager", problem, "float32")
        assert (None in own_loss.results) is bool((some == ignored).all())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_gradient_of_ignored_garbage_is_not_served(own_loss, value, rng):
    """R10: the gradient of an ignored row is 0, whatever its logits are."""
    problem = plain(rng, ignored=2)
    ignored = np.flatnonzero(problem.labels == problem.ignore_index)[0]
    problem = spoiled(problem, (ignored, 1), value)
    assert_everything(own_loss.backend, "eager", problem, "float32")
    if value != -np.inf:  # of which the gradient is 0
        assert None in own_loss.results


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_rows_without_labels_are_not_served(own_loss, value, rng):
    """R4, R15: a row of zeros is dropped, and one of NaN is not."""
    problem = sample(rng, "dense", batch=(7,))
    problem.labels[3] = value
    assert_everything(own_loss.backend, "eager", problem, "float32")
    assert own_loss.results
    assert all(result is None for result in own_loss.results)


@pytest.mark.parametrize("shortcut", ["torch"], indirect=True)
def test_torch_does_not_serve_long_rows_of_channels(shortcut, rng):
    """R20: it adds their exponentials one by one."""
    problem = plain(rng, batch=(2, 3), classes=LONG + 1, class_axis=1)
    assert_everything(shortcut.backend, "eager", problem, "float32")
    assert not shortcut.results


@pytest.mark.parametrize("shortcut", ["tensorflow"], indirect=True)
def test_tensorflow_does_not_serve_what_loses_digits(shortcut, monkeypatch, rng):
    """R10, R20: many shares of smoothing beside a whole label, and labels that are shares alone."""
    from unified_loss._backends import _tensorflow_native

    monkeypatch.setattr(_tensorflow_native, "LONG", 4)
    for options in ({}, {"kind": "dense", "label_smoothing": 1.0}):
        problem = sample(rng, **{"classes": 5, "label_smoothing": 0.25} | options)
        assert_everything(shortcut.backend, "eager", problem, "float32")
    assert not shortcut.results


def test_no_zero_of_many_losses_is_negative(own_loss, rng):
    """R10: a negative weight of a loss that rounds to 0 gives +0."""
    problem = plain(rng, reduction="none", sample_weight="full")
    problem.sample_weight[:2] = -1
    certain = 200.0 * (np.arange(problem.logits.shape[-1]) == problem.labels[0])
    losses = own_loss.backend.loss(spoiled(problem, 0, certain), "float32")
    assert losses[0] == 0
    assert not np.signbit(losses[0])
    assert np.signbit(losses[1])


def test_the_mean_of_nothing_is_not_served(own_loss, rng):
    """R10: it is 0."""
    problem = plain(rng)
    for labels, weight in ((-100, 1.0), (0, 0.0)):
        problem = problem.but(
            labels=np.full_like(problem.labels, labels),
            class_weight=np.full(problem.logits.shape[-1], weight),
        )
        assert_everything(own_loss.backend, "eager", problem, "float32")
    assert own_loss.results
    assert all(result is None for result in own_loss.results)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_cast_first_or_left_to_the_row_statistics(shortcut, dtype, rng):
    """R20: it is computed in float32, which no native loss does by itself."""
    if dtype not in shortcut.backend.floats:
        pytest.skip("NumPy has no bfloat16 without ml_dtypes")
    assert_everything(shortcut.backend, "eager", plain(rng), dtype)
    assert bool(shortcut.results) == (shortcut.backend.name in OWN)


def spoiled(problem, place, value):
    """The problem with some logits replaced."""
    logits = problem.logits.copy()
    logits[place] = value
    return problem.but(logits=logits)


@pytest.mark.parametrize("classes", [5, 70])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_what_is_not_finite_is_left_to_the_row_statistics(shortcut, classes, reduction, rng):
    """R18: a label on a masked class costs inf, with its finite gradient; NaN stays in its row."""
    problem = plain(rng, classes=classes, reduction=reduction)
    here = 2, problem.labels[2]
    for place, value in ((here, -np.inf), (here, np.inf), (here, np.nan), (2, -np.inf)):
        assert_everything(shortcut.backend, "eager", spoiled(problem, place, value), "float32")
    assert shortcut.results
    assert all(result is None for result in shortcut.results)


@pytest.mark.parametrize("classes", [5, 70])
def test_a_masked_class_without_labels_is_served(shortcut, classes, rng):
    """R18: -inf elsewhere is a probability of 0."""
    problem = plain(rng, classes=classes)
    problem.labels[problem.labels == 1] = 2
    problem = spoiled(problem, (slice(None), 1), -np.inf)
    assert_everything(shortcut.backend, "eager", problem, "float32")
    assert all(result is not None for result in shortcut.results)


@pytest.mark.parametrize("classes", [2, 70])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_zero_is_never_negative(shortcut, classes, reduction, rng):
    """R9, R10: a loss that rounds to 0 is +0, and so small that its gradient is."""
    problem = plain(rng, classes=classes, reduction=reduction)
    problem = problem.but(logits=200 * (np.arange(classes) == problem.labels[:, None]) - 100.0)
    loss = shortcut.backend.loss(problem, "float32")
    assert loss == 0
    assert not np.signbit(loss)
    assert shortcut.results == [None]
    assert_everything(shortcut.backend, "eager", problem, "float32")


def test_an_empty_batch_is_left_to_the_row_statistics(shortcut, rng):
    """R9, R15: nothing to average is +0, not the native NaN."""
    loss = shortcut.backend.loss(plain(rng, batch=(0,)), "float32")
    assert loss == 0
    assert not np.signbit(loss)


LIMITS = {
    ("numpy", 5): ("SHORT",),
    ("numpy", 70): ("SHORT",),
    ("torch", 5): ("SMALL",),
    ("torch", 70): ("SMALL", "KEPT"),
    ("tensorflow", 5): ("NATIVE",),
    ("tensorflow", 70): ("NATIVE",),
}


@pytest.mark.parametrize("classes", [5, 70])
def test_only_few_logits_are_served(shortcut, monkeypatch, classes, rng):
    """R20: up to a threshold and no further, with the same numbers."""
    problem, limits = plain(rng, classes=classes), LIMITS[shortcut.backend.name, classes]
    module = getattr(shortcut.module, "blocks", shortcut.module)
    losses = []
    for size in (problem.logits.size, problem.logits.size - 1):
        for limit in limits:
            monkeypatch.setattr(module, limit, size)
        _plan._SEEN.clear()  # which holds routes
        losses.append(shortcut.backend.loss(problem, "float32"))
        assert any(result is not None for result in shortcut.results) == (len(losses) == 1)
        shortcut.results.clear()
        assert_accurate(losses[-1], problem, "float32")


@pytest.mark.parametrize("integer", INTEGERS)
@pytest.mark.parametrize("classes", [5, 70])
def test_labels_of_any_integer_dtype_are_accurate(shortcut, classes, integer, rng):
    """R4, R6: served or not, and named where they are wrong."""
    problem = plain(rng, classes=classes)
    problem = problem.but(labels=problem.labels.astype(integer))
    assert_everything(shortcut.backend, "eager", problem, "float32")
    problem.labels[3] = classes
    with pytest.raises(LabelError):
        shortcut.backend.loss(problem, "float32")


@pytest.mark.parametrize("wrong", [-1, -7, 5, 2**31 - 1])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"reduction": "none"}])
@pytest.mark.parametrize("batch", [(), (7,), (1, 7), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("axis", [-1, 1])
def test_wrong_ids_of_familiar_calls_are_told_alike(shortcut, axis, batch, options, wrong, rng):
    """R17: whoever finds them, the error is that of the first call."""
    if axis == 1 and not batch:
        pytest.skip("has no second axis")
    problem = plain(rng, classes=5, batch=batch, class_axis=axis, ignore_index=-7, **options)
    ids = np.array(problem.labels)
    ids[(-1,) * ids.ndim] = wrong
    told = []
    for labels in (ids, problem.labels, problem.labels, ids):
        if labels is problem.labels or wrong == -7:
            assert_everything(shortcut.backend, "eager", problem.but(labels=labels), "float32")
            continue
        with pytest.raises(LabelError) as error:
            shortcut.backend.loss(problem.but(labels=labels), "float32")
        told.append(str(error.value))
    assert len(set(told)) == (wrong != -7)


def loss_of_logits(problem, backend):
    """The loss as a function of float64 logits, and the logits."""
    arrays = backend.place(problem, "float64")
    logits = arrays.pop("logits")
    return lambda x: cross_entropy(x, **arrays, **problem.options), logits


@pytest.mark.parametrize("shortcut", ["torch"], indirect=True)
def test_torch_differentiates_its_own_loss_twice(shortcut, rng):
    """R22: Hessians through the native loss; forward mode goes around it."""
    import torch

    problem = plain(rng, batch=(3,))
    loss, logits = loss_of_logits(problem, shortcut.backend)
    second = torch.autograd.functional.hessian(loss, logits)
    np.testing.assert_allclose(second, hessian(problem), 1e-8, 1e-9)
    assert shortcut.results.pop() is not None
    slope = torch.func.jvp(loss, (logits,), (torch.ones_like(logits),))[1]
    np.testing.assert_allclose(slope, 0, atol=1e-15)
    assert not shortcut.results


@pytest.mark.parametrize(
    "case",
    [(), ("sample weights", "ignored", "class weights"), OWN_OPTIONS, ("dense", "smoothing")],
)
@pytest.mark.parametrize("shortcut", ["tensorflow"], indirect=True)
def test_tensorflow_differentiates_its_own_loss_twice(shortcut, case, rng):
    """R22: nested tapes and an accumulator through the native loss."""
    import tensorflow as tf

    options = {name: value for each in case for name, value in OTHERS[each].items()}
    problem = sample(rng, **{"batch": (3,)} | options)
    loss, logits = loss_of_logits(problem, shortcut.backend)
    with tf.GradientTape() as outer:
        outer.watch(logits)
        with tf.GradientTape() as inner:
            inner.watch(logits)
            value = loss(logits)
        slope = inner.gradient(value, logits)
    np.testing.assert_allclose(outer.jacobian(slope, logits), hessian(problem), 1e-8, 1e-9)
    with tf.autodiff.ForwardAccumulator(logits, tf.ones_like(logits)) as accumulator:
        value = loss(logits)
    np.testing.assert_allclose(accumulator.jvp(value), 0, atol=1e-15)
    assert None not in shortcut.results


@pytest.mark.parametrize("shortcut", ["torch"], indirect=True)
def test_autocast_leaves_the_native_loss_its_dtype(shortcut, rng):
    """R20: float64 stays float64 where torch may choose bfloat16."""
    import torch

    problem = plain(rng)
    loss, logits = loss_of_logits(problem, shortcut.backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits)
    assert value is shortcut.results[-1]
    assert value.dtype == torch.float64
    assert_accurate(value.numpy(), problem, "float64")


class Peculiar(np.ndarray):
    """An array whose operators could mean anything."""

    def __sub__(self, other):
        return NotImplemented


ARRAYS = {
    "matrix": lambda x: x.view(np.matrix),
    "peculiar": lambda x: x.view(Peculiar),
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "strided": lambda x: x.repeat(2, 0)[::2],
}


@pytest.mark.parametrize("classes", [5, 70])
@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("shortcut", ["numpy"], indirect=True)
def test_any_array_of_numpy_is_served(shortcut, kind, classes, rng):
    """R2, R21: subclasses, byte orders and strides; the result is NumPy's own scalar."""
    problem = plain(rng, kind="kept", classes=classes)
    loss = cross_entropy(*map(ARRAYS[kind], (problem.logits, problem.labels)), axis=-1)
    assert type(loss) is np.float32
    assert_accurate(loss, problem, "float32")


@pytest.mark.parametrize("classes", [3, 70])
@pytest.mark.parametrize("shortcut", ["numpy"], indirect=True)
def test_python_integers_in_an_array_are_class_ids(shortcut, classes, rng):
    """R4, R6: labels of NumPy's dtype for objects."""
    problem = plain(rng, classes=classes)
    loss = cross_entropy(problem.logits, problem.labels.astype(object))
    assert_accurate(loss, problem, "float32")
