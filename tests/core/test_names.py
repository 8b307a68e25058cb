"""Names that a module does not have: each is answered with where it is, or with ours."""

import copy
import pickle
import sys
import traceback

import pytest

import unified_loss
from unified_loss import _names as names
from unified_loss import integrations

FUNCTION = "unified_loss.cross_entropy(logits, labels)"
FOREIGN = {
    "softmax_cross_entropy_with_integer_labels": FUNCTION,
    "softmax_cross_entropy": FUNCTION,
    "sparse_softmax_cross_entropy_with_logits": FUNCTION,
    "sparse_categorical_crossentropy": FUNCTION,
    "SparseCategoricalCrossentropy": "CrossEntropy() of unified_loss.integrations.keras",
    "CategoricalCrossentropy": "CrossEntropyLoss() of unified_loss.integrations.torch",
    "LigerCrossEntropyLoss": FUNCTION,
    "cross_entropy_loss": FUNCTION,
    "CrossEntropy": "from unified_loss.integrations.keras import CrossEntropy",
    "CrossEntropyLoss": "from unified_loss.integrations.torch import CrossEntropyLoss",
    "CausalLMLoss": "from unified_loss.integrations.transformers import CausalLMLoss",
    "ForCausalLMLoss": "CausalLMLoss() of unified_loss.integrations.transformers",
    "nll_loss": "log-probabilities will do for logits",
    "NLLLoss": "log-probabilities will do for logits",
    "log_loss": "of probabilities, the logits are the logarithm",
    "binary_cross_entropy_with_logits": "no binary loss",
    "BCEWithLogitsLoss": "no binary loss",
    "sigmoid_cross_entropy": "no binary loss",
    "fused_linear_cross_entropy": "unified_loss.linear_cross_entropy(hidden, weight, labels)",
    "LinearCrossEntropy": "unified_loss.linear_cross_entropy(hidden, weight, labels)",
    "cross_entropy_and_grad": "unified_loss.cross_entropy_with_grad(logits, labels)",
    "Perplexity": "unified_loss.RunningCrossEntropy()",
    "torch": "import unified_loss.integrations.torch",
    "keras": "import unified_loss.integrations.keras",
}


def imported(module: str, name: str) -> str:
    """What an import that fails says."""
    with pytest.raises(ImportError) as caught:
        exec(f"from {module} import {name}")  # noqa: S102 (our own text)
    assert not isinstance(caught.value, AttributeError)
    return str(caught.value)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_name_is_answered(name: str) -> None:
    """By an `AttributeError`, and by an import, which would take that for one of its own."""
    with pytest.raises(AttributeError) as caught:
        getattr(unified_loss, name)
    told = str(caught.value)
    assert told.startswith(f"module 'unified_loss' has no attribute {name!r}: ")
    assert FOREIGN[name] in told
    text = imported("unified_loss", name)
    assert text == told.replace(
        f"module 'unified_loss' has no attribute {name!r}",
        f"cannot import name {name!r} from 'unified_loss'",
    )
    assert not hasattr(unified_loss, name)
    assert getattr(unified_loss, name, None) is None


def test_what_is_said_is_there() -> None:
    """Every name of ours that a pointer has."""
    for told in (*names.FOREIGN.values(), *FOREIGN.values()):
        for place in told.split("unified_loss.")[1:]:
            first = place.partition("(")[0].partition(" ")[0].rstrip(".,;")
            is_ours = first in unified_loss.__all__
            assert is_ours or first.removeprefix("integrations.") in names.LOSSES.values(), told


def test_modules_of_the_integrations_answer_as_well() -> None:
    """With the loss of that framework, or the module of the other."""
    pytest.importorskip("torch")
    import unified_loss.integrations.torch
    import unified_loss.integrations.transformers

    for name in ("CrossEntropy", "CausalLMLoss"):
        with pytest.raises(AttributeError, match="here there is CrossEntropyLoss") as caught:
            getattr(unified_loss.integrations.torch, name)
        assert f"integrations.{names.LOSSES[name]}" in str(caught.value)
    text = imported("unified_loss.integrations.torch", "cross_entropy_loss")
    assert FUNCTION in text
    text = imported("unified_loss.integrations.transformers", "LMLoss")
    assert "here there is CausalLMLoss, ClassificationLoss, LinearCausalLMLoss" in text
    text = imported("unified_loss.integrations", "SomethingElse")
    assert all(loss in text for loss in names.LOSSES)
    text = imported("unified_loss.integrations", "explain")
    assert "from unified_loss import explain" in text
    assert FUNCTION in imported("unified_loss.integrations", "jax")


def test_a_name_of_nobody_has_no_pointer() -> None:
    """What Python and its tools ask for is as absent as ever, and a slip is guessed by Python."""
    for name in ("__wrapped__", "_private", "__path", "__file", "pytest_plugins", "anything"):
        with pytest.raises(AttributeError) as caught:
            getattr(unified_loss, name)
        assert str(caught.value) == f"module 'unified_loss' has no attribute {name!r}"
    with pytest.raises(AttributeError) as caught:
        unified_loss.cross_entropi  # noqa: B018
    shown = "".join(traceback.format_exception(caught.value))
    assert sys.version_info < (3, 12) or "Did you mean: 'cross_entropy'?" in shown
    assert caught.value.name == "cross_entropi"
    for module in (unified_loss, integrations):
        assert not hasattr(module, "__wrapped__")
    function = unified_loss.cross_entropy
    assert pickle.loads(pickle.dumps(function)) is copy.copy(function) is function  # noqa: S301
