"""Calls like an earlier one: they are examined less, and mean the same."""

import itertools
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS
from unified_loss import (
    LabelError,
    LossInputError,
    LossInputWarning,
    OptionError,
    SingleClassWarning,
    _plan,
    cross_entropy,
    cross_entropy_with_grad,
)
from unified_loss import _dispatch as dispatch

LOGITS = np.array([[1, 2, 4], [0, 3, 1], [2, 2, 0], [5, 1, 1]], np.float32)
IDS = np.array([2, 0, 0, 2], np.int32)
OTHERS = np.array([1, 1, 2, 0], np.int32)
ROWS = np.eye(3, dtype=np.float32)[IDS]
PADDED = np.array([2, -100, 0, -100], np.int32)
WEIGHTS = np.array([0.5, 2, 1, 3], np.float32)


pytestmark = pytest.mark.usefixtures("nothing_is_familiar")


@pytest.fixture(params=dispatch.LOADERS)
def library(request, installed):
    """A backend whose calls can become familiar."""
    backend = BACKENDS[request.param]
    if backend not in installed:
        pytest.skip(f"{backend.name} is not under test")
    if dispatch.LOADERS[backend.name]().outline(*map(backend.asarray, (LOGITS, IDS))) is None:
        pytest.skip(f"no call of {backend.name} becomes familiar")
    return backend


@pytest.fixture
def short_way(monkeypatch):
    """A function that closes the long way from now on."""

    def refuse(problem):
        raise AssertionError(problem)

    return lambda: monkeypatch.setattr(_plan, "make_plan", refuse)


def call(backend, labels, logits=LOGITS, function=cross_entropy, **options):
    """One call with the backend's arrays."""
    arrays = {
        name: backend.asarray(value) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    return function(backend.asarray(logits), backend.asarray(labels), **arrays)


FAMILIAR_CALLS = {
    "index": (IDS, OTHERS, {}),
    "kept": (IDS[:, None], OTHERS[:, None], {}),
    "dense": (ROWS, ROWS[::-1] * 0, {}),
    "bytes": (IDS.astype(np.uint8), OTHERS.astype(np.uint8), {"ignore_index": 255}),
    "options": (IDS, OTHERS, {"axis": -1, "label_smoothing": 0.1, "z_loss": 0.1}),
    "no ignored id": (IDS, OTHERS, {"ignore_index": None, "reduction": "sum"}),
    "unreduced": (IDS, OTHERS, {"reduction": "none"}),
    "padded": (PADDED, np.array([-100, 0, 0, 1], np.int32), {}),
    "an ignored class": (IDS, OTHERS, {"ignore_index": 1}),
    "class weights": (PADDED, OTHERS, {"class_weight": WEIGHTS[:3]}),
    "sample weights": (IDS, PADDED, {"sample_weight": WEIGHTS, "label_smoothing": 0.1}),
    "masked rows": (ROWS, ROWS * 0.5, {"sample_weight": WEIGHTS > 1}),
    "no look": (IDS, OTHERS, {"check": False}),
}


@pytest.mark.parametrize("function", [cross_entropy, cross_entropy_with_grad])
@pytest.mark.parametrize("case", FAMILIAR_CALLS)
def test_a_familiar_call_takes_the_short_way(library, short_way, case, function):
    """R26: only label values are looked at again, and the numbers are those of the long way."""
    labels, others, options = FAMILIAR_CALLS[case]
    arguments = {"logits": LOGITS[::-1] * 2, "function": function, **options}
    long = call(library, others, **arguments)
    _plan._SEEN.clear()
    call(library, labels, **options)
    short_way()
    short = call(library, others, **arguments)
    if function is cross_entropy:
        long, short = [long], [short]
    for ours, expected in zip(short, long, strict=True):
        np.testing.assert_array_equal(library.to_numpy(ours), library.to_numpy(expected))


@pytest.mark.parametrize("check", ["auto", False, True])
def test_equal_calls_give_equal_bits(library, check, rng):
    """R21: the first call and the second, which is familiar, compute in the same way."""
    for _ in range(20):
        logits = rng.standard_normal((64, 10)).astype(np.float32)
        labels = rng.integers(0, 10, 64).astype(library.library.index_dtype)
        for function in (cross_entropy, cross_entropy_with_grad):
            _plan._SEEN.clear()
            pair = (call(library, labels, logits, function, check=check) for _ in range(2))
            first, second = (loss if function is cross_entropy else loss[1] for loss in pair)
            np.testing.assert_array_equal(library.to_numpy(first), library.to_numpy(second))


def test_what_is_to_be_looked_at_is_not_remembered(library):
    """R17: under ``check=True``, all values are looked at in each call."""
    call(library, IDS, check=True)
    assert not _plan._SEEN


def test_equal_calls_give_equal_bits_beside_an_ignored_class(library, rng):
    """R21: also where no label is that class, so that the first call could know more."""
    for _ in range(20):
        logits = rng.standard_normal((50, 10)).astype(np.float32)
        labels = rng.integers(1, 10, 50).astype(library.library.index_dtype)
        _plan._SEEN.clear()
        first, second = (call(library, labels, logits, ignore_index=0) for _ in range(2))
        np.testing.assert_array_equal(library.to_numpy(first), library.to_numpy(second))


@pytest.mark.parametrize("name", ["class_weight", "sample_weight"])
@pytest.mark.parametrize(
    "values", [["a", "b", "c", "d"], [True, False, True, True], [1.5, 2.0, 3.0, 1.0]], ids=str
)
def test_weights_of_objects_are_examined_each_time(name, values):
    """R7: integers beyond 64 bits are in such arrays, and so may be anything else."""
    size = {"class_weight": 3, "sample_weight": 4}[name]
    cross_entropy(LOGITS, IDS, **{name: np.array([1, 2, 3, 4][:size], object)})
    for _ in range(2):
        with pytest.raises(LossInputError):
            cross_entropy(LOGITS, IDS, **{name: np.array(values[:size], object)})


@pytest.mark.parametrize("library", ["jax"], indirect=True)
def test_labels_that_cannot_be_read_for_free_are_not_read(library):
    """R26: no call of JAX waits for an accelerator, not the second one either."""
    from unified_loss._backends.jax import BACKEND

    class Elsewhere:
        is_fully_addressable = True

        def devices(self):
            return [SimpleNamespace(platform="gpu")]

    assert BACKEND.values(library.asarray(IDS)) is not None
    assert BACKEND.values(Elsewhere()) is None


def test_a_single_class_warns_each_time(library):
    """R9: also the third time."""
    for _ in range(3):
        with pytest.warns(SingleClassWarning):
            call(library, IDS * 0, LOGITS[:, :1], axis=1)


def test_looking_everywhere_looks_each_time(library):
    """R17: with ``check=True``, rows that no longer are probabilities are named."""
    call(library, ROWS, check=True)
    with pytest.warns(LossInputWarning, match="sum to 1"):
        call(library, ROWS * 2, check=True)
    with pytest.raises(LabelError):
        call(library, -ROWS, check=True)


@pytest.mark.parametrize("name", sorted(set(BACKENDS) - set(dispatch.LOADERS)))
def test_others_are_examined_each_time(name, installed):
    """R17: arrays of other libraries have no outline, and nothing is remembered of them."""
    backend = BACKENDS[name]
    if backend not in installed:
        pytest.skip(f"{name} is not under test")
    for _ in range(2):
        call(backend, IDS)
    assert not _plan._SEEN


class Half:
    """A number that cannot be a key."""

    __hash__ = None

    def __eq__(self, other):
        return False

    def __float__(self):
        return 0.5


class Annealed:
    """A number that changes."""

    now = 0.0

    def __float__(self):
        return self.now


def test_options_may_be_any_numbers(library):
    """R8: what has `__float__` is a number, whether or not it can be a key."""
    expected = call(library, IDS, label_smoothing=0.5)
    for _ in range(2):
        found = call(library, IDS, label_smoothing=Half())
        np.testing.assert_array_equal(library.to_numpy(found), library.to_numpy(expected))
    with pytest.raises(OptionError, match="label_smoothing"):
        call(library, IDS, label_smoothing=[0.5])


def test_options_are_read_at_each_call(library):
    """R8: an object that is another number by now is another option."""
    smoothing = Annealed()
    for smoothing.now in (0.0, 0.5, 0.25):
        found = call(library, IDS, label_smoothing=smoothing)
        expected = call(library, IDS, label_smoothing=smoothing.now)
        np.testing.assert_allclose(library.to_numpy(found), library.to_numpy(expected), 1e-6)


def everyday_calls(backend):
    """Calls of which many are alike, and no two the same."""
    labels = {
        "ids": IDS,
        "other ids": OTHERS,
        "too high": IDS + 1,
        "too low": IDS - 1,
        "ignored": np.where(IDS == 0, -100, IDS).astype(np.int32),
        "all ignored": np.full(4, -100, np.int32),
        "int8": IDS.astype(np.int8),
        "int16, too high": IDS.astype(np.int16) + 300,
        "uint8": IDS.astype(np.uint8),
        "uint8, too high": IDS.astype(np.uint8) + np.uint8(200),
        "floating": IDS.astype(np.float32),
        "rows": ROWS,
        "empty rows": ROWS * 0,
        "negative rows": -ROWS,
        "integer rows": ROWS.astype(np.int32),
    }
    options = {
        "none": {},
        "check": {"check": True},
        "no check": {"check": False},
        "check=1": {"check": 1},
        "check=0": {"check": 0},
        "ignore 1": {"ignore_index": 1},
        "ignore True": {"ignore_index": True},
        "ignore 1.0": {"ignore_index": 1.0},
        "ignore none": {"ignore_index": None},
        "smoothing 1": {"label_smoothing": 1},
        "smoothing True": {"label_smoothing": True},
        "axis 1": {"axis": 1},
        "axis 1.0": {"axis": 1.0},
        "axis True": {"axis": True},
        "sample_weight": {"sample_weight": np.array([1, 0, 0, 1], np.float32)},
        "mask": {"sample_weight": np.array([False, True, True, False])},
        "normalizer": {"normalizer": 2.0},
        "unknown reduction": {"reduction": "avg"},
    }
    for (kind, values), (name, given) in itertools.product(labels.items(), options.items()):
        yield f"{kind}, {name}", lambda values=values, given=given: call(backend, values, **given)
        if name == "none":
            yield (
                f"{kind}, host",
                lambda values=values: cross_entropy(backend.asarray(LOGITS), values),
            )


def outcome(backend, thunk):
    """All that a caller sees: the loss and its type, or the error, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")  # of frameworks, most of them once
        warnings.simplefilter("always", LossInputWarning)
        try:
            loss = thunk()
            seen = type(loss), repr(backend.to_numpy(loss).tolist())
        except LossInputError as error:
            seen = type(error), str(error)
    return *seen, [str(warning.message) for warning in caught]


def assert_memory_changes_nothing(backend, calls):
    """Each call is what it would be as the first one, after all the others."""
    alone = {}
    for name, thunk in calls.items():
        _plan._SEEN.clear()
        alone[name] = outcome(backend, thunk)
    for _ in range(2):
        for name, thunk in calls.items():
            assert outcome(backend, thunk) == alone[name], name
    assert _plan._SEEN


def test_no_call_changes_what_another_means(library):
    """R8, R16, R17, R25: whatever calls came before, labels and options mean the same."""
    assert_memory_changes_nothing(library, dict(everyday_calls(library)))


class Peculiar(np.ndarray):
    """An array of NumPy that adds nothing."""


def numpy_calls():
    """Arrays that look like familiar ones to a glance."""
    masked = np.ma.masked_array(LOGITS, np.zeros((4, 3), bool))
    for ids in (IDS, IDS + 1):
        yield lambda ids=ids: cross_entropy(LOGITS, ids)
        yield lambda ids=ids: cross_entropy(masked, ids)
        yield lambda ids=ids: cross_entropy(LOGITS, np.ma.masked_array(ids))
        yield lambda ids=ids: cross_entropy(LOGITS.view(Peculiar), ids)
        yield lambda ids=ids: cross_entropy(LOGITS, ids.view(Peculiar))
        yield lambda ids=ids: cross_entropy(LOGITS.astype(">f4"), ids.astype(">i4"))
        yield lambda ids=ids: cross_entropy(LOGITS, ids.astype(object))


def torch_calls():
    """Tensors that look like familiar ones to a glance, and calls that are watched."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    class Named(torch.Tensor):
        """A subclass that adds nothing."""

    def loss(logits, labels):  # make_fx passes every argument that there is
        return cross_entropy(logits, labels)

    logits = torch.tensor(LOGITS)
    pair = (logits,), (logits,)
    compiled = torch.compile(cross_entropy, backend="eager", fullgraph=True)
    for ids in (torch.tensor(IDS), torch.tensor(IDS) + 1):
        yield lambda ids=ids: cross_entropy(logits, ids)
        yield lambda ids=ids: cross_entropy(torch.nn.Parameter(logits), ids)
        yield lambda ids=ids: cross_entropy(logits.as_subclass(Named), ids)
        yield lambda ids=ids: cross_entropy(logits, ids.as_subclass(Named))
        yield lambda ids=ids: cross_entropy(logits.to_sparse(), ids)
        yield lambda ids=ids: cross_entropy(logits, ids.to_sparse())
        yield lambda ids=ids: cross_entropy(logits, torch._neg_view(-ids))
        yield lambda ids=ids: cross_entropy(logits, ids.to("meta"))
        yield lambda ids=ids: compiled(logits, ids)
        yield lambda ids=ids: make_fx(loss)(logits, ids)(logits, ids)
        yield lambda ids=ids: torch.func.vmap(cross_entropy)(logits[None], ids[None])[0]
        yield lambda ids=ids: torch.func.jvp(partial(cross_entropy, labels=ids), *pair)[0]


def jax_calls():
    """Traced arrays, and arrays of another precision or place."""
    import jax

    logits = jax.numpy.asarray(LOGITS)
    placed = jax.device_put(logits, jax.devices()[0])
    for ids in (jax.numpy.asarray(IDS), jax.numpy.asarray(IDS) + 1):
        yield lambda ids=ids: cross_entropy(logits, ids)
        yield lambda ids=ids: cross_entropy(placed, ids)
        yield lambda ids=ids: jax.jit(cross_entropy)(logits, ids)
        yield lambda ids=ids: jax.jit(lambda x: cross_entropy(x, ids))(logits)
        yield lambda ids=ids: jax.jit(lambda ids: cross_entropy(logits, ids))(ids)
        yield lambda ids=ids: jax.vmap(cross_entropy)(logits[None], ids[None])[0]
        yield lambda ids=ids: jax.jvp(partial(cross_entropy, labels=ids), (logits,), (logits,))[0]


def tensorflow_calls():
    """Variables, other kinds of tensors and traced ones."""
    import tensorflow as tf

    logits = tf.constant(LOGITS)
    for ids in (tf.constant(IDS), tf.constant(IDS + 1)):
        yield lambda ids=ids: cross_entropy(logits, ids)
        yield lambda ids=ids: cross_entropy(tf.Variable(logits), ids)
        yield lambda ids=ids: cross_entropy(logits, tf.Variable(ids))
        yield lambda ids=ids: cross_entropy(tf.RaggedTensor.from_tensor(logits), ids)
        yield lambda ids=ids: cross_entropy(logits, tf.sparse.from_dense(ids))
        yield lambda ids=ids: tf.function(cross_entropy)(logits, ids)
        yield lambda ids=ids: tf.function(lambda: cross_entropy(logits, ids))()


PECULIAR_CALLS = {
    "numpy": numpy_calls,
    "torch": torch_calls,
    "jax": jax_calls,
    "tensorflow": tensorflow_calls,
}


def test_no_call_is_taken_for_another(library):
    """R2, R17, R23: subclasses, variables, other kinds of arrays, and calls that are traced."""
    if library.name not in PECULIAR_CALLS:
        pytest.skip(f"{library.name} has no peculiar arrays")
    calls = PECULIAR_CALLS[library.name]()
    assert_memory_changes_nothing(library, dict(enumerate(calls)))
