"""`unified_loss.integrations.transformers` in real training, however its batches are split."""

import inspect
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS, Backend
from unified_loss import (
    ArgumentError,
    DTypeError,
    LossInputError,
    LossInputWarning,
    OptionError,
    ShapeError,
    cross_entropy,
    linear_cross_entropy,
)
from unified_loss._diagnosis._objects import OBJECT_CAUSES
from unified_loss._diagnosis._table import CAUSES
from unified_loss._vocabulary import WORDS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tests.helpers.transformers_training import (  # noqa: E402 (as they are needed after the lines above)
    ROWS,
    TASKS,
    TOKENS,
    evaluated,
    trained,
    trainer_of,
)
from unified_loss.integrations.torch import CrossEntropyLoss  # noqa: E402
from unified_loss.integrations.transformers import (  # noqa: E402
    CausalLMLoss,
    ClassificationLoss,
    LinearCausalLMLoss,
)

OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.01}
WEIGHTS = {"language": TOKENS, "classes": 3, "soft_classes": 3}


@pytest.fixture(autouse=True)
def _selected(installed: list[Backend]) -> None:
    if BACKENDS["torch"] not in installed:
        pytest.skip("torch is not under test")


def assert_same_training(one: Any, other: Any, tolerance: float = 1e-12) -> None:
    """The same parameters in the end, and the same losses on the way."""
    assert one[0].keys() == other[0].keys()
    for name, value in one[0].items():
        torch.testing.assert_close(value, other[0][name], rtol=0, atol=tolerance)
    assert one[1] == pytest.approx(other[1], rel=1e-6)  # Trainer adds them up in float32


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_accumulation_equals_one_batch(name: str, *, everything: bool, tmp_path: Path) -> None:
    """Issue 6, R14: one, two or four micro-batches, of different numbers of labels."""
    runs = []
    for micro_batches in (1, 2, 4):
        task = TASKS[name]()
        if everything:
            weights = np.linspace(1, 2, WEIGHTS[name])
            task = task._replace(loss=type(task.loss)(class_weight=weights, **OPTIONS))
        trainer = trainer_of(
            task, tmp_path, micro_batches, gradient_accumulation_steps=micro_batches
        )
        runs.append(trained(trainer))
        assert trainer.state.global_step == 3
    assert_same_training(runs[0], runs[1])
    assert_same_training(runs[0], runs[2])


def test_averages_of_micro_batches_are_another_training(tmp_path: Path) -> None:
    """Issue 6: what the test above would find: each micro-batch divided by its own labels."""

    def average(outputs: Any, labels: Any, **_: Any) -> Any:
        return CausalLMLoss()(outputs, labels) / 2

    task = TASKS["language"]()
    whole = trained(trainer_of(task, tmp_path))
    task = TASKS["language"]()._replace(loss=average)
    parts = trained(trainer_of(task, tmp_path, 2, gradient_accumulation_steps=2))
    with pytest.raises(AssertionError):
        assert_same_training(whole, parts, tolerance=1e-3)


@pytest.mark.parametrize("name", ["language", "classes"])
def test_trains_as_the_models_own_loss(name: str, tmp_path: Path) -> None:
    """Issue 6: without options nothing changes, so the labels are shifted once."""
    ours = trained(trainer_of(TASKS[name](), tmp_path))
    own = trained(trainer_of(TASKS[name]()._replace(loss=None), tmp_path))
    assert_same_training(ours, own, tolerance=1e-7)  # GPT-2 casts its logits to float32


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes over gloo have left what they trained."""
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",  # accelerate asks for one, but the processes meet in a file
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.transformers_training", rank, "2", str(folder)],
            env=environment | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_two_processes_equal_one(name: str, of_two_processes: Path, tmp_path: Path) -> None:
    """Issue 6, R14: over gloo, each process with two micro-batches; issue 11: and evaluated."""
    found = torch.load(of_two_processes / f"{name}.pt", weights_only=True)
    trainer = trainer_of(TASKS[name](), tmp_path)
    expected, _ = trained(trainer)
    assert_same_training((expected, []), (found, []))
    for rank in "01":
        loss = float((of_two_processes / f"{name}.{rank}.loss").read_text(encoding="utf-8"))
        assert loss == pytest.approx(evaluated(trainer), rel=1e-10)


@pytest.mark.parametrize("tokens", [False, True])
def test_data_parallel_replicas_equal_one(
    *, tokens: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Issue 6: `DataParallel` repeats the number of labels, and multiplies the loss."""
    expected, _ = trained(trainer_of(TASKS["language"](), tmp_path))
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", 2)
    trainer = trainer_of(TASKS["language"](), tmp_path, 2, average_tokens_across_devices=tokens)
    found, _ = trained(trainer)
    # Without the average, Trainer rounds half the number of labels down.
    tolerance = 1e-12 if tokens else 0.01
    assert_same_training((expected, []), (found, []), tolerance)


@pytest.mark.parametrize("name", TASKS)
def test_evaluates(name: str, tmp_path: Path) -> None:
    """Issue 6: the loss of `evaluate` is that of all rows, divided by what `Trainer` counts."""
    task = TASKS[name]()
    found = trainer_of(task, tmp_path).evaluate()["eval_loss"]
    tokens, labels = (
        torch.stack([row[key] for row in task.rows]) for key in ("input_ids", "labels")
    )
    items = len(labels) if name == "soft_classes" else labels.ne(-100).sum()
    with torch.no_grad():
        logits = task.model(tokens).logits
    if name == "language":  # where Trainer counts the first token of a row as well
        logits, labels = logits[:, :-1], labels[:, 1:]
    expected = cross_entropy(logits, labels, axis=-1, normalizer=items)
    assert found == pytest.approx(expected.item(), rel=1e-6)


def outputs_of(*shape: int) -> Any:
    """What a model returns: logits alone, as the labels are not passed to it."""
    generator = torch.Generator().manual_seed(0)
    return transformers.utils.ModelOutput(logits=torch.randn(*shape, generator=generator))


@pytest.mark.parametrize(
    "wrap", [dict, lambda one: one.to_tuple(), lambda one: one, lambda one: one.logits]
)
def test_takes_what_models_return(wrap: Any) -> None:
    """Issue 6: a `ModelOutput`, a dictionary, a tuple (``return_dict=False``), or logits alone."""
    outputs = outputs_of(4, 3)
    labels = torch.tensor([0, 2, -100, 1])
    expected = torch.nn.functional.cross_entropy(outputs.logits, labels)
    torch.testing.assert_close(ClassificationLoss()(wrap(outputs), labels), expected)


@pytest.mark.parametrize("items", [8, torch.tensor(8), torch.tensor(8.0), torch.tensor([[4], [4]])])
def test_divides_by_the_number_it_is_given(items: Any) -> None:
    """Issue 6, R14: an int or a tensor; by the labels at hand if there is none."""
    outputs, labels = outputs_of(4, 3), torch.tensor([0, 2, -100, 1])
    loss = ClassificationLoss()
    expected = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
    torch.testing.assert_close(loss(outputs, labels, num_items_in_batch=items), expected / 8)
    torch.testing.assert_close(loss(outputs, labels), expected / 3)


def test_class_weights_do_not_change_the_divisor() -> None:
    """Issue 6: with and without a number of labels, so that accumulation stays exact."""
    outputs, labels = outputs_of(4, 3), torch.tensor([0, 2, -100, 1])
    weight = torch.tensor([1.0, 2.0, 3.0])
    loss = ClassificationLoss(class_weight=weight)
    total = torch.nn.functional.cross_entropy(outputs.logits, labels, weight, reduction="sum")
    torch.testing.assert_close(loss(outputs, labels), total / 3)
    torch.testing.assert_close(loss(outputs, labels, 3), total / 3)


@pytest.mark.parametrize("items", [None, 0, torch.tensor(0)])
@pytest.mark.parametrize("shape", [(2, 4, 5), (0, 4, 5), (2, 0, 5), (2, 1, 5)])
def test_nothing_to_predict_costs_nothing(shape: tuple[int, ...], items: Any) -> None:
    """Issue 6, R15: a step of padding alone is 0, with gradient 0, not NaN and no error."""
    outputs = outputs_of(*shape)
    outputs.logits.requires_grad_()
    loss = CausalLMLoss(**OPTIONS)(outputs, torch.full(shape[:2], -100), items)
    loss.backward()
    assert loss.item() == 0
    assert not outputs.logits.grad.any()


def test_logits_of_the_last_token_are_dropped() -> None:
    """Issue 6, R16: they predict what is not in the batch."""
    outputs, labels = outputs_of(2, 4, 5), torch.tensor([[1, 2, 3, 4], [4, 3, -100, -100]])
    expected = CausalLMLoss()(outputs, labels)
    outputs.logits[:, -1] = torch.nan
    assert torch.equal(CausalLMLoss()(outputs, labels), expected)


def test_tokens_are_classified_where_they_stand() -> None:
    """Issue 6: one label a token, nothing is shifted, even where N = L = C."""
    outputs, labels = outputs_of(3, 3, 3), torch.tensor([[0, 1, 2], [2, -100, 1], [0, 0, -100]])
    expected = torch.nn.functional.cross_entropy(outputs.logits.transpose(1, 2), labels)
    torch.testing.assert_close(ClassificationLoss()(outputs, labels), expected)


def test_labels_are_never_those_of_a_neighbour() -> None:
    """Logits of two axes have no next token: a classifier would train on shifted examples."""
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 0])
    for outputs in (
        {"logits": logits},
        logits,
        transformers.modeling_outputs.CausalLMOutput(logits=logits),
    ):
        with pytest.raises(ShapeError, match="no positions") as info:
            CausalLMLoss()(outputs, labels, num_items_in_batch=4)
        assert "ClassificationLoss()" in info.value.fixes[0].text


def test_labels_that_are_not_shifted_are_noticed() -> None:
    """The loss for classifiers on a model that predicts the next token."""
    logits, labels = torch.randn(2, 4, 5), torch.tensor([[0, 2, 1, 0]] * 2)
    outputs = transformers.modeling_outputs.CausalLMOutputWithPast(logits=logits)
    with pytest.warns(LossInputWarning, match=r"CausalLMLoss\(\)") as told:
        ClassificationLoss()(outputs, labels, 8)
    assert told[0].message.cause == "causal_shift_mismatch"
    assert "CausalLMLoss()" in told[0].message.fixes[0].text
    for kind in ("TokenClassifierOutput", "MaskedLMOutput"):
        ClassificationLoss()(getattr(transformers.modeling_outputs, kind)(logits=logits), labels, 8)


def test_arguments_in_the_other_order_are_noticed() -> None:
    """R1: labels first, and the outputs of the model or their logits second."""
    outputs, labels = outputs_of(2, 4, 5), torch.zeros(2, 4, dtype=torch.int64)
    for loss in (CausalLMLoss(), ClassificationLoss()):
        for second in (outputs, (outputs.logits,), outputs.logits):
            with pytest.raises(
                LossInputError, match=r"look swapped, .* \(outputs, labels\)"
            ) as info:
                loss(labels, second)
            assert isinstance(info.value, TypeError)
            assert info.value.cause == "arguments_swapped"
            code = info.value.fixes[0].text.replace("...", "None")
            right = {type(loss).__name__: type(loss), "outputs": outputs, "labels": labels}
            assert eval(code, right) > 0  # noqa: S307 (our own text)
    with pytest.raises(DTypeError, match=r"logits must be floating, but are int64\.$"):
        CausalLMLoss()(labels, labels)


def test_other_names_and_places_are_answered() -> None:
    """R8: of a call: an `OptionError` that is a `TypeError`, with the right call."""
    outputs, labels = outputs_of(2, 4, 5), torch.zeros(2, 4, dtype=torch.int64)
    for options, told in (
        ({"ignore_index": 0}, "goes into the labels, where -100"),
        ({"label_smoothing": 0.1}, r"goes into CausalLMLoss\(label_smoothing=...\)"),
        ({"weight": torch.ones(5)}, r"class_weight= goes into CausalLMLoss\(class_weight=...\)"),
        ({"normalizer": 3}, "goes into num_items_in_batch="),
        ({"shift_labels": labels}, r"goes into ClassificationLoss\(\)\(logits, labels\)"),
        ({"vocab_size": 5}, "no option"),
        ({"reduction": "sum"}, "it takes outputs, labels, num_items_in_batch"),
    ):
        with pytest.raises(ArgumentError, match=told) as info:
            CausalLMLoss()(outputs, labels, **options)
        assert "CausalLMLoss()(outputs, labels)" in str(info.value.fixes)
    calls: dict[str, Any] = {
        "first argument: outputs": lambda: CausalLMLoss()(input=outputs, target=labels),
        "one of which is missing": lambda: CausalLMLoss()(outputs),
        "outputs and labels by position": lambda: CausalLMLoss()(outputs, labels, 8, 5),
        "options have names": lambda: CausalLMLoss()(outputs.logits, labels, torch.tensor(8)),
        "vocab_size must be 5": lambda: CausalLMLoss()(outputs.logits, labels, 8),
        r"LinearCausalLMLoss\(model, z_loss=": lambda: _never_made()(outputs, labels, z_loss=1),
    }
    for told, call in calls.items():
        with pytest.raises(ArgumentError, match=told):
            call()
    for number in ("mean", True, ...):
        with pytest.raises(OptionError, match="num_items_in_batch must be a number of labels"):
            CausalLMLoss()(outputs, labels, num_items_in_batch=number)
    assert CausalLMLoss()(outputs, labels, ignore_index=-100) == CausalLMLoss()(outputs, labels)
    parameters = inspect.signature(CausalLMLoss()).parameters
    assert list(parameters) == ["outputs", "labels", "num_items_in_batch"]


def test_a_model_of_the_next_token_wants_its_labels_shifted() -> None:
    """R17: the same warning as by `Trainer` where the model itself calls the loss."""
    ids = torch.tensor([[7, 3, 9, 3]])
    sizes = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 8}
    config = transformers.LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
    model = transformers.LlamaForCausalLM(config)
    model.loss_function = ClassificationLoss()
    with pytest.warns(LossInputWarning, match="predicts the next token") as told:
        model(input_ids=ids, labels=ids)
    assert told[0].message.cause == "causal_shift_mismatch"
    model.loss_function = CausalLMLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("error", LossInputWarning)
        model(input_ids=ids, labels=ids)


def _never_made() -> Any:
    """A loss whose model is nowhere: what is wrong with its call is told all the same."""
    return LinearCausalLMLoss.__new__(LinearCausalLMLoss)


def test_logits_may_have_their_name() -> None:
    """As models pass them to their own loss, the number of classes along, or not."""
    logits, labels = outputs_of(2, 4, 5).logits, torch.zeros(2, 4, dtype=torch.int64)
    expected = CausalLMLoss()(logits, labels, num_items_in_batch=8)
    for given, named in (
        ((), {"logits": logits, "labels": labels}),
        ((), {"logits": logits, "labels": labels, "vocab_size": 5, "position_ids": None}),
        ((logits, labels, 5), {"attention_mask": None}),
    ):
        assert torch.equal(CausalLMLoss()(*given, num_items_in_batch=8, **named), expected)
    for word in ({"label_smoothing": 0.1}, {"shift_labels": labels}, {"weight": logits}):
        with pytest.raises(ArgumentError, match=next(iter(word))):
            CausalLMLoss()(logits, labels, vocab_size=5, **word)
    with pytest.raises(ArgumentError, match="'position_ids'"):
        CausalLMLoss()(logits, labels, position_ids=None)


def test_what_is_no_output_and_no_label_is_answered() -> None:
    """R2: a model, its batch, arrays of NumPy, a list; each with what to write."""
    outputs, labels = outputs_of(2, 4, 5), torch.zeros(2, 4, dtype=torch.int64)
    held = SimpleNamespace(logits=outputs.logits)
    for given, told, fix in (
        ((torch.nn.Linear(2, 3), labels), "outputs must be", "outputs = model(**inputs)"),
        ((outputs.logits.numpy(), labels), "outputs must be", "torch.as_tensor(outputs)"),
        ((held, labels), "outputs must be", "outputs = outputs.logits"),
        (({"logits": 3}, labels), "the logits of the outputs", ""),
        ((None, labels), "outputs must be", ""),
        ((outputs, labels.numpy()), "labels must be", "labels = torch.as_tensor(labels)"),
        ((outputs, labels.tolist()), "labels must be", "labels = torch.as_tensor(labels)"),
        ((outputs, {"labels": labels}), "labels must be", 'inputs["labels"]'),
        ((outputs, outputs), "labels must be", "(outputs, labels"),
    ):
        with pytest.raises(LossInputError, match=told) as info:
            ClassificationLoss()(*given)
        assert isinstance(info.value, TypeError)
        assert fix in str(info.value)


def test_half_precision_is_summed_in_float32() -> None:
    """Issue 6, R20: bfloat16 logits, more tokens than bfloat16 can count."""
    logits = torch.zeros(1, 300, 2, dtype=torch.bfloat16)
    loss = CausalLMLoss()({"logits": logits}, torch.zeros(1, 300, dtype=torch.int64))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.log(2))


def test_mistakes_are_errors_of_the_library() -> None:
    """Issue 6, R8, R25: batches without labels, and options out of range."""
    with pytest.raises(LossInputError, match='no key "labels"'):
        ClassificationLoss()(outputs_of(4, 3), None)
    with pytest.raises(OptionError, match="label_smoothing"):
        CausalLMLoss(label_smoothing=2)
    with pytest.raises(OptionError, match="z_loss"):
        ClassificationLoss(z_loss=-1)


@pytest.mark.parametrize("loss", [CausalLMLoss, LinearCausalLMLoss])
def test_hints_name_options_that_there_are(loss: Any) -> None:
    """R8: what is an option of other losses is told its place, and is not named as one here."""
    options = set(CausalLMLoss.__init__.__kwdefaults__)
    for word in WORDS:
        with pytest.raises(OptionError) as caught:
            CausalLMLoss(**{word: 1})
        first = str(caught.value)
        assert "goes into" in first or {*re.findall(r"(\w+)=", first)} <= options, first
    for word, told in (
        ("ignore_index", "the labels, where -100 is what does not count"),
        ("mask", "the labels, where -100"),
        ("num_items_in_batch", "the call, which Trainer makes"),
    ):
        with pytest.raises(OptionError, match=f"{word}.* goes into {told}"):
            CausalLMLoss(**{word: 1})
    with pytest.raises(OptionError, match="'sample_weight'; it takes class_weight"):
        CausalLMLoss(sample_weight=1)
    # A class in place of an instance: its constructor gets what the loss is called with.
    outputs, labels = outputs_of(2, 4, 5), torch.zeros(2, 4, dtype=torch.int64)
    made = "LinearCausalLMLoss(model)" if loss is LinearCausalLMLoss else "CausalLMLoss()"
    with pytest.raises(OptionError, match=re.escape(f"compute_loss_func={made}")):
        loss(outputs, labels, num_items_in_batch=8)


@pytest.mark.parametrize("loss", [cross_entropy, linear_cross_entropy, CrossEntropyLoss()])
def test_a_trainer_is_given_the_loss_for_it(loss: Any, tmp_path: Path) -> None:
    """R8: what `Trainer` passes tells that it is one."""
    task = TASKS["language"]()._replace(loss=loss)
    told = r"CausalLMLoss\(\) of unified_loss.integrations.transformers as its compute_loss_func"
    with pytest.raises(OptionError, match=told):
        trainer_of(task, tmp_path).train()


def test_errors_have_causes_and_fixes() -> None:
    """R25: of shapes the tag of the cause, and of all what mends them."""
    logits, ids = torch.zeros(2, 6, 5), torch.zeros(2, 6, dtype=torch.int64)
    masked = transformers.modeling_outputs.MaskedLMOutput(logits=logits)
    calls = {
        "prefix_tokens_in_logits_only": lambda: CausalLMLoss()(logits, ids[:, 2:]),
        "sequence_length_differs": lambda: CausalLMLoss()(logits[:, 2:], ids),
        "one_hot_given_to_sparse_loss": lambda: CausalLMLoss()(logits, logits),
        "causal_shift_mismatch": lambda: CausalLMLoss()(masked, ids),
        "model_output_object_not_logits": lambda: CausalLMLoss()((logits, logits), ids),
    }
    for cause, call in calls.items():
        with pytest.raises(LossInputError) as caught:
            call()
        assert caught.value.cause == cause
        assert caught.value.fixes
        assert cause in CAUSES | OBJECT_CAUSES
    for call in (
        lambda: CausalLMLoss()(logits, None),
        lambda: CausalLMLoss().row_sums(logits, ids),
        lambda: CausalLMLoss(model_losses=[1]),
        lambda: CausalLMLoss(virtual_tokens=-1),
        LinearCausalLMLoss,
    ):
        with pytest.raises(LossInputError, match="fix: ") as caught:
            call()
        assert caught.value.fixes


def test_pickles_and_has_a_repr() -> None:
    """Issue 6: as an argument of a `Trainer` that is sent to other processes."""
    loss = pickle.loads(pickle.dumps(CausalLMLoss(z_loss=0.5)))  # noqa: S301 (its own)
    assert repr(loss) == "CausalLMLoss(z_loss=0.5)"
    labels = torch.zeros(ROWS, 4, dtype=torch.int64)
    outputs = outputs_of(ROWS, 4, 3)
    assert torch.equal(loss(outputs, labels), CausalLMLoss(z_loss=0.5)(outputs, labels))
