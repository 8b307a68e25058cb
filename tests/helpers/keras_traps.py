"""What trains silently on the wrong thing in Keras, and must not: checks of `keras_processes`."""

import warnings
from typing import Any

import keras
import numpy as np

from unified_loss import (
    ArgumentError,
    LabelError,
    LossInputError,
    LossInputWarning,
    OptionError,
    cross_entropy,
)
from unified_loss.integrations.keras import CrossEntropy

rng = np.random.default_rng(0)
INPUTS = rng.normal(size=(8, 5)).astype("float32")
IDS = np.arange(8) % 3
ONE_HOT = np.eye(3, dtype="float32")[IDS]


def fitted(
    loss: Any, labels: Any = IDS, activation: str | None = None, **compiled: Any
) -> list[float]:
    """The losses of two epochs."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((5,)), keras.layers.Dense(3, activation=activation)]
    )
    model.compile(keras.optimizers.SGD(0.5), loss=loss, **compiled)
    history = model.fit(INPUTS, labels, epochs=2, batch_size=8, verbose=0).history
    return [float(loss) for loss in history["loss"]]


def raised(kind: type[Exception], function: Any, *arguments: Any, **options: Any) -> str:
    """The text of the error that a call raises."""
    try:
        function(*arguments, **options)
    except kind as error:
        return str(error)
    message = f"no {kind.__name__}"
    raise AssertionError(message)


def a_softmax_is_noticed() -> None:
    """A model that ends in one trains on the logits before it, with a warning."""
    plain = fitted(CrossEntropy())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fitted(CrossEntropy(), activation="softmax")
    np.testing.assert_allclose(found, plain, rtol=1e-5)
    told = [one for one in caught if issubclass(one.category, LossInputWarning)]
    assert "softmax" in str(told[0].message)
    assert told[0].filename == __file__


def a_softmax_is_noticed_on_any_output() -> None:
    """One of two outputs, by a layer, inside another model; a small probability is none of 0."""
    layers = keras.layers
    start = layers.Input((5,))
    inner = keras.Sequential([layers.Input((5,)), layers.Dense(3), layers.Softmax()])
    scores, probabilities = layers.Dense(3)(start), inner(start)
    for outputs in ([scores, scores], [scores, probabilities]):
        model = keras.Model(start, outputs)
        model.compile("sgd", loss=[CrossEntropy(), CrossEntropy()])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(INPUTS, [IDS, IDS], verbose=0)
        told = any(issubclass(one.category, LossInputWarning) for one in caught)
        assert told == (outputs[1] is probabilities)
    steep = keras.Sequential([layers.Input((5,)), layers.Dense(3, "softmax")])
    steep.compile("sgd", loss=CrossEntropy())
    steep.set_weights([1e4 * weight for weight in steep.get_weights()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LossInputWarning)
        assert np.isfinite(steep.fit(INPUTS, IDS, verbose=0).history["loss"]).all()
    assert all(np.isfinite(weight).all() for weight in steep.get_weights())


def the_function_alone_is_refused() -> None:
    """``compile(loss=cross_entropy)`` would train on the negative of something."""
    for labels in (ONE_HOT, IDS):
        for eagerly in (False, True):
            text = raised(
                LossInputError,
                fitted,
                cross_entropy,
                labels,
                run_eagerly=eagerly,
                jit_compile=False,
            )
            assert "integrations.keras import CrossEntropy" in text
    losses = fitted(lambda y_true, y_pred: cross_entropy(y_pred, y_true), ONE_HOT)
    np.testing.assert_allclose(losses, fitted(CrossEntropy(), ONE_HOT), rtol=1e-6)


def a_check_that_sees_nothing_is_refused() -> None:
    """``check=True`` finds a wrong id in ``fit``, or says what it needs."""
    wrong = IDS + 1
    for eagerly in (False, True):
        text = raised(
            (LabelError, OptionError),  # type: ignore[arg-type]
            fitted,
            CrossEntropy(check=True),
            wrong,
            run_eagerly=eagerly,
        )
        assert ("class ids in [0, 3)" in text) or (not eagerly and "run_eagerly=True" in text)
    fitted(CrossEntropy(check=True), run_eagerly=True)


def words_of_keras_are_answered() -> None:
    """Each names ours; `dtype` is one of ours."""
    assert "takes logits" in raised(ArgumentError, CrossEntropy, from_logits=True)
    assert "ignore_index=" in raised(ArgumentError, CrossEntropy, ignore_class=0)
    text = raised(ArgumentError, CrossEntropy, IDS, rng.normal(size=(8, 3)))
    assert "CrossEntropy()" in text or "no argument by position" in text
    text = raised(Exception, CrossEntropy, class_weight={0: 1.0})
    assert "class_weight.get" in text
    loss = CrossEntropy(dtype="float32")
    assert CrossEntropy.from_config(loss.get_config()).get_config() == loss.get_config()
    points = rng.normal(size=(8, 3)).astype("float16")
    np.testing.assert_allclose(float(loss(IDS, points)), float(CrossEntropy()(IDS, points)), 1e-6)


def weights_may_keep_the_class_axis() -> None:
    """Sample weights (N, T, 1) are those of (N, T), as in Keras's losses, whatever came before."""
    logits = rng.normal(size=(4, 2, 3)).astype("float32")
    labels, weight = IDS.reshape(4, 2), rng.uniform(size=(4, 2)).astype("float32")
    for reduction in ("mean", "sum_over_batch_size"):
        loss = CrossEntropy(reduction=reduction)
        assert float(loss(labels, logits, weight[..., None])) == float(loss(labels, logits, weight))
    keras.utils.set_random_seed(0)
    for order in (("tokens", "column", "rows", "none"), ("column", "tokens", "rows", "none")):
        model = keras.Sequential([keras.layers.Input((2, 3)), keras.layers.Dense(3)])
        model.compile(loss=CrossEntropy())
        given = {"tokens": weight, "column": weight[..., None], "rows": weight[:, 0], "none": None}
        found = {
            name: model.evaluate(logits, labels, sample_weight=given[name], verbose=0)
            for name in order
        }
        assert found["column"] == found["tokens"] != found["rows"]


def warnings_name_the_line_of_fit() -> None:
    """One class: the line is that of who called ``fit``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(1)])
        CrossEntropy()(np.zeros(4, int), np.zeros((4, 1), "float32"))
    told = [one for one in caught if issubclass(one.category, LossInputWarning)]
    assert {one.filename for one in told} == {__file__}


TRAPS = (
    a_softmax_is_noticed,
    a_softmax_is_noticed_on_any_output,
    the_function_alone_is_refused,
    a_check_that_sees_nothing_is_refused,
    words_of_keras_are_answered,
    weights_may_keep_the_class_axis,
    warnings_name_the_line_of_fit,
)
