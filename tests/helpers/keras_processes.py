"""Keras on one of its backends: ``KERAS_BACKEND=NAME python -m tests.helpers.keras_processes F``.

Runs every check of `CHECKS`, and leaves what happened in the file F.
"""

import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np

from tests.helpers.keras_traps import TRAPS
from tests.helpers.problems import Array, Problem
from tests.helpers.reference import evaluate
from unified_loss import (
    BackendError,
    DTypeError,
    LabelError,
    LossInputError,
    LossInputWarning,
    OptionError,
    ShapeError,
    cross_entropy,
)
from unified_loss.integrations import keras as integration
from unified_loss.integrations.keras import CrossEntropy

BACKEND = keras.backend.backend()
RATE = 0.5
ROWS, FEATURES, CLASSES = 16, 6, 4
CLASS_WEIGHT = [0.5, 1.0, 2.0, 1.5]
EVERYTHING = {
    "class_weight": CLASS_WEIGHT,
    "ignore_index": 3,
    "label_smoothing": 0.25,
    "z_loss": 0.125,
}

rng = np.random.default_rng(0)
INPUTS = rng.normal(size=(ROWS, FEATURES)).astype("float32")
IDS = np.arange(ROWS) % CLASSES
SOFT = rng.dirichlet(np.ones(CLASSES), ROWS).astype("float32")
SAMPLE_WEIGHT = rng.uniform(0, 2, ROWS).astype("float32")


def model_of(loss: CrossEntropy, *, jit_compile: bool = False) -> Any:
    """A softmax regression."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    optimizer = keras.optimizers.SGD(RATE)
    model.compile(optimizer, loss=loss, metrics=["accuracy"], jit_compile=jit_compile)
    return model


def assert_step_is_the_reference(
    labels: Array,
    *,
    jit_compile: bool = False,
    fit: dict[str, Any] | None = None,
    weight: Array | None = None,
    **options: Any,
) -> None:
    """One step of ``fit`` logs the reference's loss, and subtracts its gradient."""
    model = model_of(CrossEntropy(**options), jit_compile=jit_compile)
    kernel, bias = model.get_weights()
    history = model.fit(INPUTS, labels, batch_size=ROWS, verbose=0, **(fit or {})).history
    if options.get("class_weight") is not None:
        options["class_weight"] = np.array(options["class_weight"])
    logits = INPUTS.astype(float) @ kernel.astype(float) + bias
    truth = evaluate(Problem(logits, labels, 1, -1, sample_weight=weight, **options))
    np.testing.assert_allclose(float(history["loss"][0]), float(truth.loss), rtol=1e-6)
    slope = truth.gradient.astype(float)
    found_kernel, found_bias = model.get_weights()
    np.testing.assert_allclose(found_kernel, kernel - RATE * INPUTS.T @ slope, atol=1e-6)
    np.testing.assert_allclose(found_bias, bias - RATE * slope.sum(0), atol=1e-6)


def steps_of_every_kind_of_labels() -> None:
    """R4: as Keras's own trainer passes them on."""
    one_hot = np.eye(CLASSES, dtype="int64")[IDS]
    for labels in (IDS, IDS[:, None], IDS.astype("uint8"), IDS.astype("int32"), one_hot, SOFT):
        assert_step_is_the_reference(labels, label_smoothing=0.25)


def weights_of_fit() -> None:
    """R7, R14: sample weights; the class weights of ``fit``, and those of the loss."""
    given = {"sample_weight": SAMPLE_WEIGHT}
    for options in ({}, EVERYTHING, {"reduction": "sum"}, {"normalizer": 5.0}):
        assert_step_is_the_reference(IDS, fit=given, weight=SAMPLE_WEIGHT, **options)
    assert_step_is_the_reference(IDS, fit={"sample_weight": IDS > 1}, weight=IDS > 1)
    by_class = {"class_weight": dict(enumerate(CLASS_WEIGHT))}
    assert_step_is_the_reference(IDS, fit=by_class, weight=np.array(CLASS_WEIGHT)[IDS])


def compiled_steps() -> None:
    """R23: ``jit_compile=True``, with every option."""
    fit = {"sample_weight": SAMPLE_WEIGHT}
    assert_step_is_the_reference(IDS, jit_compile=True, fit=fit, weight=SAMPLE_WEIGHT, **EVERYTHING)


def fit_learns() -> None:
    """A metric next to it, a validation split, a last batch that is smaller."""
    model = model_of(CrossEntropy())
    labels = np.argmax(INPUTS[:, :CLASSES], -1)
    options = {"batch_size": 5, "epochs": 60, "validation_data": (INPUTS, labels), "verbose": 0}
    history = model.fit(INPUTS, labels, **options).history
    assert float(history["loss"][-1]) < float(history["loss"][0]) / 2
    assert float(history["val_loss"][-1]) < float(history["val_loss"][0]) / 2
    assert float(history["val_accuracy"][-1]) > 0.9


def masked_tokens() -> None:
    """R16: what a layer masks is dropped, with and without sample weights, compiled or not."""
    tokens = np.array([[1, 2, 3, 0, 0], [4, 1, 0, 0, 0], [2, 2, 4, 3, 1]])
    labels = (tokens + 1) % CLASSES
    kept = tokens != 0
    rows = np.array([1.0, 0.5, 2.0], "float32")
    each = rng.uniform(0.5, 1, tokens.shape).astype("float32")
    weights = {None: kept, "rows": kept * rows[:, None], "tokens": kept * each}
    given = {None: None, "rows": rows, "tokens": each}
    for jit_compile in (False, True) if BACKEND != "torch" else (False,):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Embedding(5, 3, mask_zero=True), keras.layers.Dense(CLASSES)]
        model = keras.Sequential([keras.layers.Input((None,), dtype="int32"), *layers])
        model.compile(loss=CrossEntropy(), jit_compile=jit_compile)
        logits = keras.ops.convert_to_numpy(model(tokens)).astype(float)
        for name, weight in weights.items():
            truth = evaluate(Problem(logits, labels, 2, -1, sample_weight=weight)).loss
            found = model.evaluate(tokens, labels, sample_weight=given[name], verbose=0)
            np.testing.assert_allclose(float(found), float(truth), rtol=1e-6)
        if jit_compile:
            continue
        assert_raises(ShapeError, CrossEntropy(), labels, model(tokens), rows[:2])
        assert_raises(ShapeError, CrossEntropy(), labels, model(tokens), each[:, :1])


def reductions_are_those_of_keras() -> None:
    """Each of Keras's names means what it means there; "mean" alone is ours."""
    points = rng.normal(size=(4, 3, CLASSES)).astype("float32")
    points[1, 1:] = points[3] = 0
    masked = keras.layers.Masking()(points)
    labels = np.arange(12).reshape(4, 3) % CLASSES
    weight = rng.uniform(0, 2, (4, 3)).astype("float32")
    weight[0, 0] = 0
    for reduction in ("sum_over_batch_size", "sum", "mean_with_sample_weight", "none", None):
        options = {"reduction": reduction, "from_logits": True, "ignore_class": 2}
        theirs = keras.losses.SparseCategoricalCrossentropy(**options)
        ours = CrossEntropy(reduction=reduction, ignore_index=2)
        for logits in (points, masked):
            for sample_weight in (None, weight):
                want = keras.ops.convert_to_numpy(theirs(labels, logits, sample_weight))
                found = keras.ops.convert_to_numpy(ours(labels, logits, sample_weight))
                if reduction in {"none", None}:  # where Keras leaves the masking of losses to fit
                    want = np.where(labels == 2, 0, want)
                np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-7)
    one = CrossEntropy(reduction="mean")(labels, masked, weight)
    other = CrossEntropy(reduction="mean_with_sample_weight")(labels, masked, weight)
    assert float(one) == float(other)
    nothing = CrossEntropy(reduction="sum_over_batch_size", ignore_index=1)
    assert float(nothing(np.ones(3, int), points[0])) == 0
    assert CrossEntropy(reduction="sum").call(labels, points).shape == (4, 3)


def examples_are_counted_from_labels() -> None:
    """What divides "sum_over_batch_size" takes nothing of the logits' size."""
    points = rng.normal(size=(4, 3, 50)).astype("float32")
    points[1, 1:] = points[3] = 0
    masked = keras.layers.Masking()(points)
    unmasked = (points != 0).any(-1)
    ids = rng.integers(0, 50, (4, 3))
    ids[0, 0], ids[1, 1] = -100, -100
    rows = rng.dirichlet(np.ones(50), (4, 3)).astype("float32")
    rows[0, 0] = rows[1, 1] = 0
    for labels in (ids, ids[..., None], rows, np.sign(rows).astype(int), rows > 0):
        dropped = (labels == 0).all(-1) if labels.shape == points.shape else ids == -100
        for axis in (-1, None) if labels.shape != points.shape else (-1,):
            for given in (labels, keras.ops.convert_to_tensor(labels)):
                for logits, kept in ((points, ~dropped), (masked, ~dropped & unmasked)):
                    with mock.patch.object(integration, "cross_entropy", wraps=cross_entropy) as it:
                        mean = CrossEntropy(axis=axis, reduction="sum_over_batch_size")
                        divided = float(mean(given, logits))
                    sizes = [np.prod(call.args[0].shape) for call in it.call_args_list]
                    assert sizes == [points.size, 2 * kept.size]
                    whole = float(CrossEntropy(axis=axis, reduction="sum")(given, logits))
                    np.testing.assert_allclose(divided, whole / kept.sum(), rtol=1e-6)


def class_ids_are_never_rounded() -> None:
    """R6, R20: class 257 in half precision, where Keras's own loss takes it for 256."""
    ids, classes = np.array([257, 257]), 300
    scores = np.zeros((2, classes), "float32")
    scores[:, 257] = 20
    half = keras.ops.cast(scores, "bfloat16")
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="bfloat16")
    assert float(theirs(ids, half)) > 19
    found = CrossEntropy()(ids, half)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert float(found) < 1e-5

    for floatx, policy in (
        ("float32", "mixed_bfloat16"),
        ("float32", "mixed_float16"),  # with Keras's scaling of the loss
        ("bfloat16", "mixed_bfloat16"),
    ):
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
        try:
            layer = keras.layers.Dense(classes, kernel_initializer="zeros")
            model = keras.Sequential([keras.layers.Input((2,)), layer])
            model.compile(keras.optimizers.SGD(20.0), loss=CrossEntropy())
            model.fit(np.ones((2, 2), "float32"), ids, epochs=3, verbose=0)
            predicted = keras.ops.convert_to_numpy(keras.ops.argmax(model(np.ones((1, 2))), -1))
            assert predicted.tolist() == [257]
        finally:
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy("float32")


def saved_models_load() -> None:
    """The `.keras` file holds every option, and training goes on."""
    loss = CrossEntropy(**EVERYTHING, axis=1, reduction="sum_over_batch_size", check=False)
    model = model_of(loss)
    model.fit(INPUTS, IDS, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        loaded = keras.saving.load_model(path)
    assert type(loaded.loss) is CrossEntropy
    assert loaded.loss.get_config() == loss.get_config()
    kept = [float(one.evaluate(INPUTS, IDS, verbose=0)[0]) for one in (model, loaded)]
    assert kept[0] == kept[1]
    for one in (model, loaded):
        one.fit(INPUTS, IDS, shuffle=False, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], loaded.get_weights()[0])


def configurations_are_json() -> None:
    """Options of any numeric type; an equal loss comes back."""
    weight = keras.ops.convert_to_tensor(np.array(CLASS_WEIGHT, "float32"))
    loss = CrossEntropy(
        axis=np.int64(1),
        class_weight=weight,
        ignore_index=None,
        label_smoothing=np.float32(0.25),
        z_loss=1,
        normalizer=np.int32(7),
        reduction="mean_with_sample_weight",
        check=True,
        name="mine",
    )
    config = json.loads(json.dumps(loss.get_config()))
    assert config == {
        "axis": 1,
        "class_weight": CLASS_WEIGHT,
        "ignore_index": None,
        "label_smoothing": 0.25,
        "z_loss": 1.0,
        "reduction": "mean_with_sample_weight",
        "normalizer": 7.0,
        "check": True,
        "name": "mine",
    }
    again = CrossEntropy.from_config(config)
    scores = INPUTS[:, :CLASSES]
    assert float(again(IDS, scores)) == float(loss(IDS, scores))
    serialized = keras.saving.serialize_keras_object(loss)
    assert serialized["registered_name"] == "unified_loss>CrossEntropy"
    assert keras.losses.deserialize(serialized).get_config() == config


def bad_options_are_refused_at_once() -> None:
    """R8: before there is a batch."""
    for options in (
        {"axis": 1.5},
        {"axis": "last"},
        {"ignore_index": 0.5},
        {"label_smoothing": 1.5},
        {"label_smoothing": np.zeros(2)},
        {"z_loss": -1},
        {"z_loss": float("nan")},
        {"reduction": "average"},
        {"reduction": ["mean"]},
        {"normalizer": 0},
        {"normalizer": "many"},
        {"normalizer": 3, "reduction": "sum"},
        {"normalizer": 3, "reduction": "sum_over_batch_size"},
        {"check": "always"},
    ):
        assert_raises(OptionError, CrossEntropy, **options)
    assert_raises(ShapeError, CrossEntropy, class_weight=np.ones((2, 3)))
    assert_raises(DTypeError, CrossEntropy, class_weight=["a"])
    assert_raises(DTypeError, CrossEntropy, class_weight=[1j, 2])
    assert_raises(BackendError, CrossEntropy, class_weight={0: 1.0})


def mistakes_in_batches() -> None:
    """R4, R17: ids as floats, ids that are no class, weights that do not fit."""
    assert_raises(DTypeError, model_of(CrossEntropy()).fit, INPUTS, IDS + 0.0, verbose=0)
    assert_raises(ShapeError, model_of(CrossEntropy()).fit, INPUTS, IDS[:, None, None], verbose=0)
    wrong = model_of(CrossEntropy(class_weight=[1, 2]))
    assert_raises(ShapeError, wrong.fit, INPUTS, IDS, verbose=0)
    scores = keras.ops.convert_to_tensor(INPUTS[:, :CLASSES])
    assert_raises(LabelError, CrossEntropy(), IDS + 1, scores)
    assert np.isnan(float(CrossEntropy(check=False)(IDS + 1, scores)))
    assert_raises(ShapeError, CrossEntropy(), IDS, scores, SAMPLE_WEIGHT[:, None])


def replicas_add_up() -> None:
    """The mean of the replicas' means; with a normalizer, the mean of the global batch."""
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for weight, options in (
        (np.ones(ROWS, "float32"), {}),
        (SAMPLE_WEIGHT, {"normalizer": 11.0}),
        (SAMPLE_WEIGHT, {"reduction": "sum_over_batch_size"}),
    ):
        alone = model_of(CrossEntropy(**options))
        with strategy.scope():
            spread = model_of(CrossEntropy(**options))
        for model in (alone, spread):
            given = {"sample_weight": weight, "batch_size": ROWS, "shuffle": False, "verbose": 0}
            model.fit(INPUTS, IDS, **given)
        for one, other in zip(alone.get_weights(), spread.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def assert_raises(
    kind: type[LossInputError], call: Callable[..., Any], *args: Any, **options: Any
) -> None:
    """The call is refused, by this very error."""
    try:
        call(*args, **options)
    except LossInputError as error:
        assert type(error) is kind, error  # noqa: PT017 (other errors pass through)
        return
    message = f"no {kind.__name__}"
    raise AssertionError(message)


CHECKS: dict[str, Callable[[], None]] = {
    check.__name__: check
    for check in (
        *TRAPS,
        steps_of_every_kind_of_labels,
        weights_of_fit,
        compiled_steps,
        fit_learns,
        masked_tokens,
        reductions_are_those_of_keras,
        examples_are_counted_from_labels,
        class_ids_are_never_rounded,
        saved_models_load,
        configurations_are_json,
        bad_options_are_refused_at_once,
        mistakes_in_batches,
        replicas_add_up,
    )
}


def main(path: str, *names: str) -> None:
    """Run the checks that this backend of Keras allows, or some of them."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
    else:
        del CHECKS["replicas_add_up"]
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "rows of labels .* have several ones", LossInputWarning)
    # Keras reads its own variables and torch's tensors through NumPy's old protocol.
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    # torch.compile imports torch's own deprecated scripts, and looks for gradients of the logits
    # where Keras's metrics break its graph.
    warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
    warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor", UserWarning)
    outcomes = {}
    for name in names or CHECKS:
        try:
            CHECKS[name]()
            outcomes[name] = ""
        except Exception:  # noqa: BLE001 (the test shows it)
            outcomes[name] = traceback.format_exc()
    Path(path).write_text(json.dumps(outcomes), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
