"""What trains silently on the wrong thing in Keras, and must not: checks of `keras_processes`."""

import inspect
import warnings
from typing import Any

import keras
import numpy as np
import pytest

from unified_loss import (
    ArgumentError,
    DTypeError,
    LabelError,
    LossInputError,
    LossInputWarning,
    OptionError,
    ShapeError,
    cross_entropy,
)
from unified_loss.integrations.keras import CrossEntropy

rng = np.random.default_rng(0)
INPUTS = rng.normal(size=(8, 5)).astype("float32")
IDS = np.arange(8) % 3
ONE_HOT = np.eye(3, dtype="float32")[IDS]


def fitted(loss: Any, labels: Any = IDS, activation: Any = None, **compiled: Any) -> list[float]:
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


def a_softmax_is_noticed_behind_what_moves_numbers() -> None:
    """No layer that shapes the probabilities makes logits of them."""
    plain = fitted(CrossEntropy())
    for layer in (keras.layers.Reshape((3,)), keras.layers.Flatten(), keras.layers.Permute((1,))):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Input((5,)), keras.layers.Dense(3), keras.layers.Softmax(), layer]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.SGD(0.5), loss=CrossEntropy())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = model.fit(INPUTS, IDS, epochs=2, batch_size=8, verbose=0).history["loss"]
        np.testing.assert_allclose(found, plain, rtol=1e-4)
        told = [one for one in caught if issubclass(one.category, LossInputWarning)]
        assert "softmax" in str(told[0].message)


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


def a_softmax_is_told_once() -> None:
    """Each ``fit`` says it once, of its own model, and a metric takes what the loss takes."""

    def fit(caught: Any) -> set[str]:
        model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(3, "softmax")])
        metrics = {"metrics": [CrossEntropy()], "weighted_metrics": [CrossEntropy(name="weighed")]}
        model.compile("sgd", loss=CrossEntropy(), **metrics)
        history = model.fit(INPUTS, IDS, batch_size=8, verbose=0).history
        for name in ("cross_entropy", "weighed"):
            np.testing.assert_allclose(history[name], history["loss"], rtol=1e-6)
        of_model = [str(one.message) for one in caught if f"{model.name!r}" in str(one.message)]
        assert len(of_model) == 1
        return {model.name}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # what people see: each text of a line once
        names = fit(caught) | fit(caught)
    told = [one for one in caught if issubclass(one.category, LossInputWarning)]
    assert len(told) == len(names) == 2


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


def a_sigmoid_is_noticed() -> None:
    """As a softmax is: by its name, as a layer and as an operation; its ends are finite."""
    layers = keras.layers
    ends = {
        "plain": lambda scores: scores,
        "name": layers.Dense(3, "sigmoid", kernel_initializer="identity"),
        "layer": layers.Activation("sigmoid"),
        "operation": keras.ops.sigmoid,
    }
    losses = {}
    for name, end in ends.items():
        keras.utils.set_random_seed(0)
        start = layers.Input((5,))
        model = keras.Model(start, end(layers.Dense(3)(start)))
        model.compile("sgd", loss=CrossEntropy())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses[name] = model.evaluate(INPUTS, IDS, verbose=0)
        told = [str(one.message) for one in caught if issubclass(one.category, LossInputWarning)]
        assert any("sigmoid" in text for text in told) == (name != "plain")
    np.testing.assert_allclose(list(losses.values()), losses["plain"], rtol=1e-5)
    steep = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(3, "sigmoid")])
    steep.compile("sgd", loss=CrossEntropy())
    steep.set_weights([1e4 * weight for weight in steep.get_weights()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LossInputWarning)
        assert np.isfinite(steep.fit(INPUTS, IDS, verbose=0).history["loss"]).all()


def the_function_alone_is_refused() -> None:
    """As a loss it would train on the negative of something, as a metric it would show that."""
    scores = keras.ops.convert_to_tensor(INPUTS[:, :3])
    cross_entropy(scores, keras.ops.convert_to_tensor(ONE_HOT))  # it may have been right before
    for labels in (ONE_HOT, IDS):
        for eagerly in (False, True):
            how = {"run_eagerly": eagerly, "jit_compile": not eagerly}
            for loss, metrics in ((cross_entropy, None), (CrossEntropy(), [cross_entropy])):
                text = raised(LossInputError, fitted, loss, labels, metrics=metrics, **how)
                assert "integrations.keras import CrossEntropy" in text
    with pytest.raises(LossInputError) as caught:
        fitted(cross_entropy, IDS, run_eagerly=True)
    assert [(fix.kind, fix.code) for fix in caught.value.fixes] == [("elsewhere", "")]
    losses = fitted(lambda y_true, y_pred: cross_entropy(y_pred, y_true), ONE_HOT)
    np.testing.assert_allclose(losses, fitted(CrossEntropy(), ONE_HOT), rtol=1e-6)


def the_loss_is_a_metric() -> None:
    """As an object and as a class: of one batch it shows what the loss shows."""
    for metric in (CrossEntropy(), CrossEntropy):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(3)])
        model.compile(loss=CrossEntropy(), metrics=[metric])
        history = model.fit(INPUTS, IDS, batch_size=8, verbose=0).history
        np.testing.assert_allclose(history["cross_entropy"], history["loss"], rtol=1e-6)


def the_other_order_is_told_in_the_words_of_keras() -> None:
    """Labels come first here: what is said is said of (y_true, y_pred)."""
    scores = keras.ops.convert_to_tensor(INPUTS[:, :3])
    for ids in (IDS, keras.ops.convert_to_tensor(IDS)):
        text = raised(DTypeError, CrossEntropy(), scores, ids)
        assert "order of a loss of Keras is (y_true, y_pred)" in text
    assert "are int" in raised(DTypeError, CrossEntropy(), IDS, ONE_HOT.astype("int32"))
    for names in (np.array([["a", "b"]]), np.array([["a", None]], object)):
        assert "y_pred must be floating" in raised(DTypeError, CrossEntropy(), [0], names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CrossEntropy()(INPUTS[:, :3], ONE_HOT)
    told = [one.message for one in caught if issubclass(one.category, LossInputWarning)]
    assert "order of a loss of Keras is (y_true, y_pred)" in str(told[0])
    assert "loss(y_true, y_pred)" in str(told[0].fixes)


def layers_are_those_of_keras() -> None:
    """A layer that is to be changed is one of Keras, and the axis is not said to be given."""
    text = raised(ShapeError, fitted, CrossEntropy(), np.eye(4, dtype="float32")[IDS])
    assert "(Dense(4))" in text
    assert "axis: -1 (of the loss)" in text


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
    assert "needs no word" in raised(ArgumentError, CrossEntropy, from_logits=True)
    assert "the last softmax" in raised(ArgumentError, CrossEntropy, from_logits=False)
    assert "ignore_index=" in raised(ArgumentError, CrossEntropy, ignore_class=0)
    text = raised(ArgumentError, CrossEntropy, IDS, rng.normal(size=(8, 3)))
    assert "CrossEntropy()" in text or "no argument by position" in text
    text = raised(Exception, CrossEntropy, class_weight={0: 1.0})
    assert "class_weight.get" in text
    for words, told in (
        ({"from_logits": True}, "needs no word"),
        ({"ignore_class": 0}, "ignore_index= goes into CrossEntropy(ignore_index=...)"),
        ({"label_smoothing": 0.1}, "goes into CrossEntropy(label_smoothing=...)"),
        ({"mask": ONE_HOT}, "sample_weight="),
        ({"target": IDS}, "the first argument: y_true"),
        ({"logits": ONE_HOT}, "the second argument: y_pred, the logits"),
    ):
        assert told in raised(ArgumentError, CrossEntropy(), IDS, ONE_HOT, **words)
    assert "is missing" in raised(ArgumentError, CrossEntropy(), y_pred=ONE_HOT)
    assert "class_weight" in raised(ArgumentError, CrossEntropy(), IDS, ONE_HOT, None, [1, 2, 3])
    assert list(inspect.signature(CrossEntropy().__call__).parameters) == [
        "y_true", "y_pred", "sample_weight",
    ]  # fmt: skip
    assert "a class is made before" in raised(ArgumentError, CrossEntropy, y_true=IDS, y_pred=1)
    assert "CrossEntropy()(y_true, y_pred)" in raised(ArgumentError, CrossEntropy, IDS, ONE_HOT)
    with pytest.raises(ImportError, match="here there is CrossEntropy"):
        from unified_loss.integrations.keras import CrossEntropyLoss  # noqa: F401
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
    a_softmax_is_noticed_behind_what_moves_numbers,
    a_softmax_is_told_once,
    a_softmax_is_noticed_on_any_output,
    a_sigmoid_is_noticed,
    the_function_alone_is_refused,
    the_loss_is_a_metric,
    the_other_order_is_told_in_the_words_of_keras,
    layers_are_those_of_keras,
    a_check_that_sees_nothing_is_refused,
    words_of_keras_are_answered,
    weights_may_keep_the_class_axis,
    warnings_name_the_line_of_fit,
)
