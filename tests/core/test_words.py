"""Words of other libraries: each is answered with ours."""

import functools
import inspect
import re
from typing import Any

import numpy as np
import pytest

import unified_loss
from tests.helpers.backends import Backend
from unified_loss import (
    ArgumentError,
    OptionError,
    RunningCrossEntropy,
    cross_entropy,
    cross_entropy_totals,
    cross_entropy_with_grad,
    explain,
    linear_cross_entropy,
    linear_cross_entropy_totals,
    linear_cross_entropy_with_grad,
)
from unified_loss._vocabulary import OTHERS, WORDS

LOGITS = np.array([[1, 2, 4], [0, 3, 1]], np.float32)
LABELS = np.array([2, 0])
FUNCTIONS = [cross_entropy, cross_entropy_with_grad, explain]
OURS = {
    "weight": "class_weight=",
    "dim": "axis=",
    "input": "logits",
    "target": "labels",
    "where": "sample_weight=",
    "from_logits": "takes logits",
    "ignore_class": "ignore_index=",
    "y_true": "labels",
    "y_pred": "logits",
    "size_average": "reduction=",
    "normalize": "reduction=",
    "axes": "'axis'",
    "anything": "reduction",
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("word", OURS)
def test_a_foreign_word_is_answered(function: Any, word: str) -> None:
    """R8: an `OptionError` and a `TypeError`, which names our word."""
    if function is explain and word == "weight":
        pytest.skip("it has one, of the last layer (test_a_weight_of_classes_is_no_layer)")
    with pytest.raises(ArgumentError, match=f"{word}.*{OURS[word]}") as caught:
        function(LOGITS, LABELS, **{word: 1})
    assert isinstance(caught.value, OptionError)
    assert isinstance(caught.value, TypeError)
    assert function.__name__ in str(caught.value)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_words_for_the_arrays_are_answered(function: Any) -> None:
    """R8: where no array has our name."""
    with pytest.raises(ArgumentError, match=r"input.*logits"):
        function(input=LOGITS, target=LABELS)
    with pytest.raises(ArgumentError, match=r"labels.*missing"):
        function(LOGITS)
    with pytest.raises(ArgumentError, match=r"logits.*missing"):
        function(labels=LABELS)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_options_have_names(function: Any) -> None:
    """R8: the third argument of torch is the class weights."""
    with pytest.raises(ArgumentError, match="class_weight="):
        function(LOGITS, LABELS, np.ones(3))
    with pytest.raises(ArgumentError, match="reduction="):
        function(LOGITS, LABELS, "sum")


def test_an_option_that_is_off_is_answered_as_such() -> None:
    """R8: logits are what the loss takes, so one word can go, and the other means a softmax."""
    with pytest.raises(ArgumentError, match="needs no word"):
        cross_entropy(LOGITS, LABELS, from_logits=True)  # type: ignore[call-overload]
    with pytest.raises(ArgumentError, match=r"delete it together with the last softmax, or .*log"):
        cross_entropy(LOGITS, LABELS, from_logits=False)  # type: ignore[call-overload]


VALUES: dict[str, Any] = {
    "class_weight": [1.0, 2.0, 1.0],
    "sample_weight": [1.0, 2.0],
    "axis": 1,
    "ignore_index": 0,
    "label_smoothing": 0.1,
    "z_loss": 0.1,
    "normalizer": 2.0,
    "check": True,
    "bias": [0.0, 1.0, 2.0],
    "softcap": 2.0,
    "hidden": LOGITS,
    "weight": np.eye(3),
}


@pytest.mark.parametrize("word", {**WORDS, **OTHERS})
def test_every_word_has_an_answer_and_its_fixes(word: str) -> None:
    """R8, R25: what is a name of ours alone comes with the code that gives the value this name."""
    for function, arrays in (
        (cross_entropy, {"logits": LOGITS, "labels": LABELS}),
        (linear_cross_entropy, {"hidden": LOGITS, "weight": np.eye(3), "labels": LABELS}),
    ):
        if word in arrays:
            continue
        with pytest.raises(ArgumentError, match=f"has no argument '{word}': ") as caught:
            function(**arrays, **{word: 1})
        error = caught.value
        assert error.cause == "word_of_another_library"
        assert error.fixes
        for fix in error.fixes:
            if not fix.code:
                assert fix.text in str(error)
                continue
            ours = fix.code.partition(" = ")[0]
            assert f"{ours}=" in str(error)
            if ours == "class_group":
                continue  # which needs processes
            others = {name: one for name, one in arrays.items() if name != ours}
            made = fix.apply(**others, **{word: VALUES[ours]})
            assert word not in made
            wanted = function(**others, **{ours: VALUES[ours]})
            np.testing.assert_array_equal(function(**made), wanted)


def test_words_of_options_that_only_some_losses_have() -> None:
    """R8, R28: what to do where there are logits."""
    for word in ("softcap", "logit_softcapping", "final_logit_softcapping"):
        with pytest.raises(ArgumentError, match=r"tanh\(logits / softcap\)"):
            cross_entropy(LOGITS, LABELS, **{word: 30.0})  # type: ignore[call-overload]
    for word in ("hidden_states", "lm_head", "linear_weight"):
        with pytest.raises(ArgumentError, match="one of linear_cross_entropy"):
            cross_entropy(LOGITS, LABELS, **{word: LOGITS})  # type: ignore[call-overload]
    with pytest.raises(ArgumentError, match="rows of weight tell the number of classes"):
        linear_cross_entropy(LOGITS, LOGITS, LABELS, num_classes=2)  # type: ignore[call-arg]


def test_a_misspelt_word_has_the_name_that_is_near() -> None:
    """R8, R25: as a guess."""
    with pytest.raises(ArgumentError, match="perhaps 'class_weight' is meant") as caught:
        cross_entropy(LOGITS, LABELS, class_weigth=np.ones(3))  # type: ignore[call-overload]
    (fix,) = caught.value.fixes
    assert (caught.value.cause, fix.kind) == (None, "conditional")
    assert cross_entropy(**fix.apply(LOGITS, LABELS, class_weigth=np.ones(3))) > 0
    with pytest.raises(ArgumentError, match="has no class_weigth"):
        fix.apply(LOGITS, LABELS)


def test_the_focal_loss_that_is_told_is_one() -> None:
    """R8: the code in the answer, by the definition."""
    with pytest.raises(ArgumentError, match="focal") as caught:
        cross_entropy(LOGITS, LABELS, gamma=2)  # type: ignore[call-overload]
    code = str(caught.value).partition('"none": ')[2].removesuffix(".")
    losses = cross_entropy(LOGITS, LABELS, reduction="none")
    found = eval(code, {"losses": losses, "gamma": 2, "exp": np.exp})  # noqa: S307 (our own text)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    p = p[np.arange(2), LABELS]
    np.testing.assert_allclose(found, -((1 - p) ** 2) * np.log(p), rtol=1e-5)


EVERY = [
    (cross_entropy, {"logits": LOGITS, "labels": LABELS}),
    (cross_entropy_with_grad, {"logits": LOGITS, "labels": LABELS}),
    (cross_entropy_totals, {"logits": LOGITS, "labels": LABELS}),
    (explain, {"logits": LOGITS, "labels": LABELS}),
    (RunningCrossEntropy().update, {"logits": LOGITS, "labels": LABELS}),
    *(
        (function, {"hidden": LOGITS, "weight": np.eye(3), "labels": LABELS})
        for function in (
            linear_cross_entropy,
            linear_cross_entropy_with_grad,
            linear_cross_entropy_totals,
            RunningCrossEntropy().update_linear,
        )
    ),
]


@pytest.mark.parametrize(("function", "arrays"), EVERY)
def test_arrays_come_by_place_or_by_name(function: Any, arrays: dict[str, Any]) -> None:
    """Any of them that are last may have their names, and in any order."""
    wanted = repr(function(*arrays.values()))
    for number in range(len(arrays)):
        places, named = [*arrays.values()][:number], [*arrays.items()][number:]
        assert repr(function(*places, **dict(named))) == wanted
        assert repr(function(*places, **dict(named[::-1]))) == wanted
        assert repr(functools.partial(function, **dict(named))(*places)) == wanted
        with pytest.raises(ArgumentError, match="one of which is missing"):
            function(*places, **dict(named[1:]))


@pytest.mark.parametrize(("function", "arrays"), EVERY)
def test_an_array_that_is_given_twice_is_named(function: Any, arrays: dict[str, Any]) -> None:
    """R8, R25: by its place and by its name, which is another library's word for something."""
    for name in arrays:
        with pytest.raises(ArgumentError, match=f"has '{name}' twice, as the .* by name") as caught:
            function(*arrays.values(), **{name: [0, 1, 2]})
        assert caught.value.cause == "word_of_another_library"
        meant = {
            "labels": "a list of all classes",
            "logits": "by place",
            "weight": "class_weight=",
        }
        assert meant.get(name, "by name") in str(caught.value)
    if "logits" in arrays:  # the labels came first
        with pytest.raises(ArgumentError, match=r"'logits' twice.*\n.*logits come first here"):
            function(LABELS, logits=LOGITS)


def test_arrays_come_by_name_in_programs(backend: Backend) -> None:
    """R23: where functions are traced, too."""
    logits, labels = backend.asarray(LOGITS), backend.asarray(LABELS)
    wanted = backend.to_numpy(cross_entropy(logits, labels))
    for call in (
        lambda x, y: cross_entropy(logits=x, labels=y),
        lambda x, y: cross_entropy(x, labels=y),
    ):
        is_compiled = backend.name in {"torch", "jax", "tensorflow"}
        for function in (call, *([backend.trace(call)] if is_compiled else [])):
            found = backend.to_numpy(function(logits, labels))
            np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_words_are_not_ours() -> None:
    """R8: no foreign word shadows an argument, but for the weight of a layer."""
    for function in FUNCTIONS:
        shadowed = (WORDS | OTHERS).keys() & inspect.signature(function).parameters.keys()
        assert shadowed == ({"weight"} if function is explain else set())


@pytest.mark.parametrize("weight", [np.ones(3), [1.0, 2.0, 1.0], 2.0], ids=str)
def test_a_weight_of_classes_is_no_layer(weight: Any) -> None:
    """R8: `explain` takes the weight of the last layer, whose name others have for another."""
    error = explain(LOGITS, LABELS, weight=weight).error
    assert isinstance(error, ArgumentError)
    assert "here it is class_weight=, a weight for each class" in str(error)


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("average", "mean"),
        ("batchmean", "mean"),
        ("elementwise_mean", "mean"),
        ("Mean", "mean"),
        ("sum_over_batch_size", "mean"),
        ("SUM_BY_NONZERO_WEIGHTS", "mean"),
        (True, "mean"),
        (None, "none"),
        (False, "none"),
        ("total", "sum"),
    ],
)
def test_a_reduction_of_another_library_is_answered(word: Any, ours: str) -> None:
    """R8, R25: the fix is that of the text, and makes the call valid."""
    with pytest.raises(OptionError, match=f"say so: reduction={ours!r}") as caught:
        cross_entropy(LOGITS, LABELS, reduction=word)
    (fix,) = caught.value.fixes
    assert (caught.value.cause, fix.kind) == ("word_of_another_library", "conditional")
    found = cross_entropy(**fix.apply(LOGITS, LABELS, reduction=word))
    np.testing.assert_array_equal(found, cross_entropy(LOGITS, LABELS, reduction=ours))


@pytest.mark.parametrize("word", ["rms", 2, [], {}])
def test_no_reduction_of_any_library(word: Any) -> None:
    """R8: there is nothing to guess."""
    with pytest.raises(OptionError, match="reduction must be") as caught:
        cross_entropy(LOGITS, LABELS, reduction=word)
    assert (caught.value.cause, caught.value.fixes) == (None, ())


def test_signatures_show_no_more_than_there_is() -> None:
    """The signature in `help`: no parameter that takes just anything."""
    for function in FUNCTIONS:
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        assert kinds == {
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        }
        required = [
            name
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is inspect.Parameter.empty
        ]
        assert required == ["logits", "labels"]


def test_losses_of_the_integrations_are_found_in_their_package() -> None:
    """Each name, in the package as in its module."""
    torch = pytest.importorskip("torch")
    from unified_loss import integrations
    from unified_loss.integrations import CausalLMLoss, CrossEntropyLoss

    assert issubclass(CrossEntropyLoss, torch.nn.Module)
    assert CausalLMLoss.__module__ == "unified_loss.integrations.transformers"
    with pytest.raises(AttributeError):
        integrations.cross_entropy  # noqa: B018


def test_modules_answer_foreign_words() -> None:
    """R8: torch's class weights by position, its words, and a class in place of an instance."""
    torch = pytest.importorskip("torch")
    from unified_loss.integrations.torch import CrossEntropyLoss
    from unified_loss.integrations.transformers import CausalLMLoss

    with pytest.raises(ArgumentError, match="class_weight="):
        CrossEntropyLoss(torch.ones(3))
    with pytest.raises(ArgumentError, match="class_weight="):
        CrossEntropyLoss(weight=torch.ones(3))
    logits, labels = torch.tensor(LOGITS), torch.tensor(LABELS)
    with pytest.raises(ArgumentError, match=r"CrossEntropyLoss\(\)\(logits, labels\)"):
        CrossEntropyLoss(logits, labels)
    for given in ({"logits": logits, "labels": labels}, {"input": logits}, {"vocab_size": 3}):
        with pytest.raises(ArgumentError) as caught:
            CrossEntropyLoss(**given)
        is_call = "made before it is called: CrossEntropyLoss()(logits" in str(caught.value)
        assert is_call == ("vocab_size" not in given)
    with pytest.raises(ArgumentError, match=r"CrossEntropyLoss\(\)\(logits, labels\)"):
        CrossEntropyLoss(labels, logits)  # a vector first, which might be weights
    with pytest.raises(ArgumentError, match="labels"):
        CrossEntropyLoss()(logits, target=labels)
    with pytest.raises(ArgumentError, match=r"CrossEntropyLoss\(ignore_index=...\)"):
        CrossEntropyLoss()(logits, labels, ignore_index=0)
    with pytest.raises(
        ArgumentError, match=r"CrossEntropyLoss\(\)\(logits, labels, normalizer=...\)"
    ):
        CrossEntropyLoss(normalizer=3)
    with pytest.raises(ArgumentError, match=r"CausalLMLoss\(\)"):
        CausalLMLoss({"logits": logits}, labels, num_items_in_batch=2)


def test_options_of_a_class_are_told_from_those_of_its_calls() -> None:
    """R8: what goes into the constructor, what into a call, and what nowhere."""
    running = RunningCrossEntropy()
    for options, told in (
        ({"class_weight": 1}, "goes into RunningCrossEntropy(class_weight=...)"),
        ({"dim": 1}, "here it is axis=, the axis of the classes. axis= goes into Running"),
        ({"weight": 1}, "class_weight= goes into RunningCrossEntropy(class_weight=...)"),
        ({"sample_weights": 1}, "here it is sample_weight=, a weight for each example"),
        ({"normalizer": 1}, "'normalizer'; it takes logits, labels, sample_weight."),
        ({"outputs": 1}, "here it is the first argument: logits"),
    ):
        with pytest.raises(ArgumentError, match=re.escape(told)):
            running.update(LOGITS, LABELS, **options)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"RunningCrossEntropy\(class_weight=...\)"):
        running.update(LOGITS, LABELS, np.ones(3))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"RunningCrossEntropy\(label_smoothing=...\)"):
        running.update_linear(LOGITS, LOGITS, LABELS, label_smoothing=1)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"update\(logits, labels, sample_weight=...\)"):
        RunningCrossEntropy(sample_weight=LABELS)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"RunningCrossEntropy\(\).update\(logits, labels\)"):
        RunningCrossEntropy(LOGITS, LABELS)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"RunningCrossEntropy\(\).update\(logits, labels\)"):
        RunningCrossEntropy(logits=LOGITS)  # type: ignore[arg-type]
    for word, told in (
        ("input", "the first argument: hidden"),
        ("logits", "the first argument: hidden"),
        ("target", "the third argument: labels"),
        ("y_true", "(hidden comes first here, labels third)"),
        ("linear_weight", "here it is weight="),
        ("linear_bias", "here it is bias="),
    ):
        with pytest.raises(ArgumentError, match=re.escape(told)):
            linear_cross_entropy(LOGITS, LOGITS, LABELS, **{word: 1})
    with pytest.raises(ArgumentError, match="'linear_bias': here it is no option where there are"):
        cross_entropy(LOGITS, LABELS, linear_bias=1)  # type: ignore[call-overload]
    for word in ("axis", "dim"):
        with pytest.raises(ArgumentError, match="the rows of weight are the classes"):
            linear_cross_entropy(LOGITS, LOGITS, LABELS, **{word: 1})


def test_checkpoints_of_torch_load() -> None:
    """PyTorch calls the class weights `weight`."""
    torch = pytest.importorskip("torch")
    from unified_loss.integrations.torch import CrossEntropyLoss

    theirs = torch.nn.Sequential(torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])))
    ours = torch.nn.Sequential(CrossEntropyLoss(class_weight=[1, 1, 1]))
    saved = theirs.state_dict()
    ours.load_state_dict(saved)
    assert ours[0].class_weight.tolist() == [1, 2, 3]
    assert list(saved) == ["0.weight"]
    fixed = torch.nn.Sequential(CrossEntropyLoss(class_weight=[1, 1, 1], persistent=False))
    fixed.load_state_dict(saved)
    assert fixed[0].class_weight.tolist() == [1, 1, 1]
    assert not fixed.state_dict()


def test_the_error_is_public() -> None:
    """R25: who catches `TypeError` for a wrong name goes on doing so."""
    assert issubclass(unified_loss.ArgumentError, OptionError | TypeError)


@pytest.mark.parametrize(
    "function",
    [
        *FUNCTIONS,
        cross_entropy_totals,
        linear_cross_entropy,
        linear_cross_entropy_totals,
        linear_cross_entropy_with_grad,
        RunningCrossEntropy.update,
        RunningCrossEntropy.update_linear,
    ],
)
def test_what_comes_by_place_is_captured_by_nothing(function: Any) -> None:
    """Its code has other names, and of a captured one Python keeps the name in two places."""
    code = function.__code__
    assert code.co_posonlyargcount
    assert not code.co_cellvars
    names = code.co_varnames[: code.co_posonlyargcount]
    assert not set(names) & set(inspect.signature(function).parameters)
