"""The losses for `Trainer` against those of models of each kind: equal, or an error of ours."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers.backends import BACKENDS, Backend
from unified_loss import (
    ArgumentError,
    BackendError,
    LossInputError,
    LossInputWarning,
    OptionError,
    ShapeError,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from torch._dynamo.testing import CompileCounter  # noqa: E402 (as after the lines above)

from tests.helpers.transformers_models import (  # noqa: E402
    DECODER,
    ENCODER,
    MODELS,
    VIRTUAL,
    batch_of,
    model_of,
    rows_of,
)
from tests.helpers.transformers_training import LENGTH, TOKENS, Task, trained, trainer_of  # noqa: E402
from unified_loss.integrations.torch import CrossEntropyLoss  # noqa: E402
from unified_loss.integrations.transformers import (  # noqa: E402
    CausalLMLoss,
    ClassificationLoss,
    LinearCausalLMLoss,
)

AVERAGED = {"t5", "bart", "bert"}  # over each micro-batch by itself, in their own losses
SUMMED = [name for name in MODELS if name not in AVERAGED]
RUN = {"CausalLMLoss": CausalLMLoss, "ClassificationLoss": ClassificationLoss}


@pytest.fixture(autouse=True)
def _selected(installed: list[Backend]) -> None:
    if BACKENDS["torch"] not in installed:
        pytest.skip("torch is not under test")


def outputs_of(task: Any, **options: Any) -> tuple[Any, Any]:
    """What the model returns for all rows, and their labels."""
    inputs, labels = batch_of(task)
    return task.model(**inputs, **options), labels


def own_loss(task: Any, **options: Any) -> Any:
    """The loss that the model computes by itself."""
    inputs, labels = batch_of(task)
    return task.model(**inputs, labels=labels, **options).loss


def run(fix: Any, task: Any) -> Any:
    """What the code of a fix makes."""
    code = fix.text.partition(": ")[2].removeprefix("compute_loss_func=")
    code = code if code.endswith("()") else f"{type(task.loss).__name__}({code})"
    return eval(code, RUN | {"model": task.model})  # noqa: S307 (our own text)


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_loss_of_the_model(name: str) -> None:
    """Issue 11: whatever is shifted, prepended or added."""
    task = model_of(name)
    torch.testing.assert_close(task.loss(*outputs_of(task)), own_loss(task), rtol=1e-6, atol=0)


@pytest.mark.parametrize("items", [40, torch.tensor(40)])
@pytest.mark.parametrize("name", SUMMED)
def test_divides_as_the_loss_of_the_model(name: str, items: Any) -> None:
    """Issue 11: by a number of labels that is an int or a tensor; what is added is not divided."""
    task = model_of(name)
    expected = own_loss(task, num_items_in_batch=items)
    torch.testing.assert_close(task.loss(*outputs_of(task), items), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "micro_batches"), [*((name, 1) for name in MODELS), *((name, 2) for name in SUMMED)]
)
def test_trains_as_the_loss_of_the_model(name: str, micro_batches: int, tmp_path: Any) -> None:
    """Issue 11: parameters and losses of a real `Trainer`, with and without our loss."""
    runs = []
    for own in (False, True):
        task = model_of(name)
        if own:
            task = task._replace(loss=None)
        options = {"gradient_accumulation_steps": micro_batches}
        runs.append(trained(trainer_of(task, tmp_path, micro_batches, **options)))
    (ours, our_losses), (theirs, their_losses) = runs
    for parameter, value in ours.items():  # the models' own losses are computed in float32
        torch.testing.assert_close(value, theirs[parameter], rtol=0, atol=1e-6)
    assert our_losses == pytest.approx(their_losses, rel=1e-6)


@pytest.mark.parametrize("name", sorted(AVERAGED))
def test_accumulates_where_the_model_averages(name: str, tmp_path: Any) -> None:
    """Issue 11, R14: two micro-batches are one batch, which they are not by the model's own."""
    runs = []
    for micro_batches in (1, 2):
        options = {"gradient_accumulation_steps": micro_batches}
        runs.append(trained(trainer_of(model_of(name), tmp_path, micro_batches, **options)))
    for parameter, value in runs[0][0].items():
        torch.testing.assert_close(value, runs[1][0][parameter], rtol=0, atol=1e-12)


def test_losses_of_the_model_are_added_or_refused() -> None:
    """Issue 11: each fix runs; one gives the model's own loss, one the cross-entropy alone."""
    task = model_of("mixtral")
    outputs, labels = outputs_of(task)
    with pytest.raises(OptionError, match="no factor of: aux_loss") as info:
        CausalLMLoss()(outputs, labels)
    added, left_out = (run(fix, task) for fix in info.value.fixes)
    torch.testing.assert_close(added(outputs, labels), own_loss(task))
    alone = CausalLMLoss()(outputs.logits, labels)
    assert torch.equal(left_out(outputs, labels), alone)
    # Replicas of `DataParallel` return one each.
    two = {"logits": outputs.logits, "aux_loss": torch.tensor([1.0, 3.0])}
    torch.testing.assert_close(added(two, labels), alone + 0.5 * 2)


def test_losses_that_the_model_does_not_return_are_refused() -> None:
    """Issue 11: a factor that would have no effect, and the fix that gives it one."""
    task = model_of("mixtral")
    task.model.config.output_router_logits = False
    outputs, labels = outputs_of(task)
    with pytest.raises(OptionError, match="did not return: aux_loss") as info:
        task.loss(outputs, labels)
    alone = CausalLMLoss(model_losses={"aux_loss": 0})(outputs, labels)
    assert torch.equal(alone, CausalLMLoss()(outputs, labels))
    exec(info.value.fixes[0].text, {"model": task.model})  # noqa: S102 (our own text)
    torch.testing.assert_close(task.loss(*outputs_of(task)), own_loss(task))


def test_losses_of_routers_on_both_sides() -> None:
    """Issue 11: Switch Transformers has four, one of which is 0 if that side has no experts."""
    config = transformers.SwitchTransformersConfig(
        router_z_loss_coef=0.5, router_aux_loss_coef=0.25
    )
    values = {
        "encoder_z_loss": 1,
        "decoder_z_loss": 2,
        "encoder_aux_loss": 4,
        "decoder_aux_loss": 0,
    }
    tensors = {name: torch.tensor(float(value)) for name, value in values.items() if value}
    outputs = transformers.modeling_outputs.Seq2SeqMoEOutput(
        logits=torch.eye(5)[None], **values | tensors
    )
    labels = torch.arange(5)[None]
    with pytest.raises(OptionError, match="encoder_z_loss") as info:
        CausalLMLoss()(outputs, labels)
    task = SimpleNamespace(loss=CausalLMLoss(), model=SimpleNamespace(config=config))
    expected = ClassificationLoss()(outputs.logits, labels) + 0.5 * (1 + 2) + 0.25 * (4 + 0)
    torch.testing.assert_close(run(info.value.fixes[0], task)(outputs, labels), expected)


def test_losses_of_routers_that_need_labels_are_refused() -> None:
    """Issue 11: NLLB returns none without labels, which `Trainer` takes away."""
    outputs = transformers.modeling_outputs.Seq2SeqMoEOutput(
        logits=torch.zeros(2, 4, 5), encoder_router_logits=(torch.zeros(8, 4),)
    )
    with pytest.raises(LossInputError, match="from labels"):
        CausalLMLoss()(outputs, torch.zeros(2, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    "kind", ["MaskedLMOutput", "TokenClassifierOutput", "SequenceClassifierOutput"]
)
def test_other_kinds_are_not_shifted(kind: str) -> None:
    """Issue 11: labels that stand where they are predicted are refused, with a loss for them."""

    class Subclass(getattr(transformers.modeling_outputs, kind)):  # type: ignore[misc]
        """As in code that comes with a model."""

    labels = torch.tensor([[1, 2, -100, 0]] * 2)
    for made in (getattr(transformers.modeling_outputs, kind), Subclass):
        outputs = made(logits=torch.eye(5)[torch.arange(8) % 5].reshape(2, 4, 5))
        with pytest.raises(LossInputError, match=f"not for {kind}") as info:
            CausalLMLoss()(outputs, labels)
        loss = eval(info.value.fixes[0].text.partition("=")[2], RUN)  # noqa: S307 (our own text)
        expected = torch.nn.functional.cross_entropy(outputs.logits.mT, labels)
        torch.testing.assert_close(loss(outputs, labels), expected)


def test_kinds_are_those_of_the_library() -> None:
    """Issue 11: of its own outputs with logits, these predict the next token, and no others."""
    labels = torch.tensor([[1, 2, 3, 0]] * 2)
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.cross_entropy(logits.mT, labels)
    shifted = torch.nn.functional.cross_entropy(logits[:, :-1].mT, labels[:, 1:])
    found: dict[str, set[str]] = {}
    for name, kind in vars(transformers.modeling_outputs).items():
        if "logits" in getattr(kind, "__dataclass_fields__", ()):
            try:
                loss = CausalLMLoss()(kind(logits=logits), labels)
            except LossInputError:
                found.setdefault("refused", set()).add(name)
            else:
                is_whole = torch.allclose(loss, whole)
                assert is_whole or torch.allclose(loss, shifted)
                found.setdefault("whole" if is_whole else "shifted", set()).add(name)
    assert {"CausalLMOutput", "CausalLMOutputWithPast", "MoeCausalLMOutputWithPast"} <= found[
        "shifted"
    ]
    assert all("CausalLM" in name for name in found["shifted"])
    assert all(name.startswith("Seq2Seq") for name in found["whole"])
    assert {"Seq2SeqLMOutput", "Seq2SeqMoEOutput"} <= found["whole"]
    assert not any("CausalLM" in name or name.startswith("Seq2Seq") for name in found["refused"])


def test_language_models_inside_others() -> None:
    """Issue 11: BLIP-2 has a decoder or an encoder-decoder model."""
    from transformers.models.blip_2.modeling_blip_2 import Blip2ForConditionalGenerationModelOutput

    outputs = transformers.modeling_outputs
    logits, labels = torch.eye(5)[None], torch.arange(5)[None]
    for kind, expected in (
        (outputs.CausalLMOutputWithPast, CausalLMLoss),
        (outputs.Seq2SeqLMOutput, ClassificationLoss),
    ):
        inner = kind(logits=logits)
        whole = Blip2ForConditionalGenerationModelOutput(
            logits=logits, language_model_outputs=inner
        )
        assert torch.equal(CausalLMLoss()(whole, labels), expected()({"logits": logits}, labels))


@pytest.mark.parametrize("name", ["t5", "mixtral"])
def test_outputs_without_names_are_refused(name: str) -> None:
    """Issue 11: a tuple of a decoder's logits and an encoder's states; of a loss and logits."""
    task = model_of(name)
    outputs, labels = outputs_of(task, return_dict=False)
    losses = [task.loss] if name == "t5" else [task.loss, ClassificationLoss()]
    for loss in losses:
        with pytest.raises(LossInputError, match="without names"):
            loss(outputs, labels)


def test_outputs_get_names_by_the_fix() -> None:
    """Issue 11: where the configuration of the model takes them away."""
    task = model_of("t5")
    task.model.config.return_dict = False
    with pytest.raises(LossInputError, match="without names") as info:
        task.loss(*outputs_of(task))
    exec(info.value.fixes[0].text, {"model": task.model})  # noqa: S102 (our own text)
    torch.testing.assert_close(task.loss(*outputs_of(task)), own_loss(task))


def test_tuples_of_decoders_are_taken() -> None:
    """Issue 11: a tensor and a cache, which is none."""
    task = model_of("llama")
    expected = task.loss(*outputs_of(task))
    assert torch.equal(task.loss(*outputs_of(task, return_dict=False)), expected)


def test_virtual_tokens_are_asked_for() -> None:
    """Issue 11: the first fix aligns the labels with the last tokens, as the model itself does."""
    task = model_of("prompted")
    outputs, labels = outputs_of(task)
    with pytest.raises(ShapeError, match=f"but have {LENGTH + VIRTUAL}") as info:
        CausalLMLoss()(outputs, labels)
    error = info.value
    assert error.logits_shape == (*labels.shape[:1], LENGTH + VIRTUAL, TOKENS)
    assert (error.labels_shape, error.axis) == (tuple(labels.shape), 2)
    torch.testing.assert_close(run(error.fixes[0], task)(outputs, labels), own_loss(task))
    with pytest.raises(ShapeError, match=f"{VIRTUAL} virtual tokens, but have {LENGTH}"):
        task.loss(*outputs_of(model_of("llama")))


def test_virtual_tokens_before_others_that_are_classified() -> None:
    """Issue 11: nothing is shifted; one label a row has no virtual tokens."""
    logits = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, -100, 0], [4, 4, 4, -100]])
    loss = ClassificationLoss(virtual_tokens=2)
    expected = torch.nn.functional.cross_entropy(logits[:, 2:].mT, labels)
    torch.testing.assert_close(loss({"logits": logits}, labels), expected)
    expected = torch.nn.functional.cross_entropy(logits[:, 0], labels[:, 0])
    torch.testing.assert_close(loss({"logits": logits[:, 0]}, labels[:, 0]), expected)


def test_decoders_without_inputs_of_their_own_are_refused() -> None:
    """Issue 11: BART then predicts as many tokens as the encoder has."""
    task = model_of("bart")
    inputs, labels = batch_of(task)
    outputs = task.model(inputs["input_ids"])
    with pytest.raises(ShapeError, match="position") as info:
        task.loss(outputs, labels[:, :-2])
    assert any("DataCollatorForSeq2Seq" in fix.text for fix in info.value.fixes)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 1), ()])
def test_labels_that_cannot_be_shifted_are_refused(shape: tuple[int, ...]) -> None:
    """Issue 11: classes are not shifted for tokens, nor are all labels dropped."""
    with pytest.raises(ShapeError, match="token ids"):
        CausalLMLoss()(torch.zeros(2, 4, 5), torch.zeros(shape))


def test_outputs_without_logits_are_refused() -> None:
    """Issue 11, R25: those of a question-answering model have a fix that runs."""
    outputs = {"start_logits": torch.randn(4, LENGTH), "end_logits": torch.randn(4, LENGTH)}
    with pytest.raises(LossInputError, match="'start_logits', 'end_logits'") as info:
        ClassificationLoss()(outputs, torch.zeros(4, dtype=torch.int64))
    code = info.value.fixes[0].text.partition(": ")[2].partition(" in place")[0]
    logits = eval(code, {"torch": torch, "outputs": outputs})  # noqa: S307 (our own text)
    assert ClassificationLoss()(logits, torch.ones(4, 2, dtype=torch.int64)) > 0
    with pytest.raises(LossInputError, match="'hidden'") as info:
        ClassificationLoss()({"hidden": torch.zeros(4, 2)}, torch.zeros(4))
    assert not info.value.fixes


def answers(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """The loss of the first and the last token of each answer, as the page has it."""
    logits = torch.stack([outputs["start_logits"], outputs["end_logits"]], 1)
    return ClassificationLoss()(logits, labels, num_items_in_batch=num_items_in_batch)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_spans_train_as_the_loss_of_the_model(micro_batches: int, tmp_path: Any) -> None:
    """A question-answering head: parameters and losses of a real `Trainer`."""
    rows = rows_of()
    ends = torch.stack([torch.tensor([row % 3, 3 + row % 4]) for row in range(len(rows))])
    runs = []
    for ours in (True, False):
        torch.manual_seed(0)
        model = transformers.BertForQuestionAnswering(transformers.BertConfig(**ENCODER))
        labels = [
            {"labels": end} if ours else {"start_positions": end[0], "end_positions": end[1]}
            for end in ends
        ]
        given = zip(rows, labels, strict=True)
        inputs = [{"input_ids": row["input_ids"]} | one for row, one in given]
        task = Task(model, inputs, answers if ours else None)
        names = {"label_names": ["labels"]} if ours else {}
        options = {"gradient_accumulation_steps": micro_batches, **names}
        trainer = trainer_of(task, tmp_path, micro_batches, **options)
        runs.append((*trained(trainer), trainer.evaluate()["eval_loss"]))
    (found, our_losses, ours_at_last), (wanted, losses, theirs_at_last) = runs
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert our_losses == pytest.approx(losses, rel=1e-6)
    assert ours_at_last == pytest.approx(theirs_at_last, rel=1e-6)


def test_questions_without_an_answer_are_dropped() -> None:
    """R16: labels of -100, and a batch of nothing else has a loss of 0."""
    outputs = {"start_logits": torch.randn(4, LENGTH), "end_logits": torch.randn(4, LENGTH)}
    labels = torch.tensor([[1, 2], [-100, -100], [0, 3], [-100, -100]])
    kept = {name: logits[::2] for name, logits in outputs.items()}
    torch.testing.assert_close(answers(outputs, labels), answers(kept, labels[::2]))
    assert answers(outputs, torch.full((4, 2), -100)) == 0


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_model_calls_the_loss_in_place_of_its_own(name: str, tmp_path: Any) -> None:
    """As `loss_function`: by names and by places, with what else the model is called with."""
    task = model_of(name)
    number = torch.tensor(40)
    own = [own_loss(task), own_loss(task, num_items_in_batch=number)]
    task.model.loss_function = CausalLMLoss()
    found = [own_loss(task), own_loss(task, num_items_in_batch=number)]
    torch.testing.assert_close(found, own, rtol=1e-6, atol=0)
    assert torch.equal(own_loss(task, output_hidden_states=True), found[0])
    task.model.loss_function = CausalLMLoss(z_loss=0.1)
    assert own_loss(task) > found[0] + 0.1
    runs = []
    for loss in (None, CausalLMLoss()):
        task = model_of(name)._replace(loss=None)
        if loss is not None:
            task.model.loss_function = loss
        trainer = trainer_of(task, tmp_path, 2, gradient_accumulation_steps=2)
        runs.append(trained(trainer))
    (theirs, their_losses), (ours, our_losses) = runs
    for parameter, value in ours.items():
        torch.testing.assert_close(value, theirs[parameter], rtol=0, atol=1e-6)
    assert our_losses == pytest.approx(their_losses, rel=1e-6)


def test_a_model_calls_the_loss_without_its_logits() -> None:
    """R29: while it trains, the model makes none for its own loss either."""
    task = model_of("llama")
    expected = own_loss(task)
    task.model.loss_function = LinearCausalLMLoss(task.model)
    task.model.train()
    inputs, labels = batch_of(task)
    sizes = []
    for _ in range(2):
        outputs = task.model(**inputs, labels=labels)
        torch.testing.assert_close(outputs.loss, expected, rtol=1e-6, atol=0)
        sizes.append(outputs.logits.shape[1])
    assert sizes == [1, 0]


def test_a_model_that_is_compiled_calls_the_loss() -> None:
    """R23: in one graph."""
    task = model_of("llama")
    inputs, labels = batch_of(task)
    task.model.loss_function = CausalLMLoss(label_smoothing=0.1)
    compiled = torch.compile(task.model, fullgraph=True, backend="eager")
    found = compiled(**inputs, labels=labels, num_items_in_batch=torch.tensor(40)).loss
    expected = own_loss(task, num_items_in_batch=torch.tensor(40))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [CausalLMLoss, LinearCausalLMLoss, CrossEntropyLoss])
def test_a_class_in_place_of_a_loss_function_is_answered(kind: Any) -> None:
    """R8: a model makes an instance of it with what the loss is called with."""
    task = model_of("llama")
    task.model.loss_function = kind
    with pytest.raises(ArgumentError, match=rf"made before it is called: .*{kind.__name__}\("):
        own_loss(task)


CLASSES = {"num_labels": 3}
IMAGES = ENCODER | CLASSES | {"image_size": 4, "patch_size": 2}
CLASSIFIERS: dict[str, Any] = {  # and how each calls its own loss
    "pooled_logits": lambda: transformers.LlamaForSequenceClassification(
        transformers.LlamaConfig(**DECODER, **CLASSES, pad_token_id=0)
    ),
    "by position": lambda: transformers.LlamaForTokenClassification(
        transformers.LlamaConfig(**DECODER, **CLASSES)
    ),
    "by position, the labels first": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(**{name: one for name, one in IMAGES.items() if name[:5] != "vocab"})
    ),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_calls_its_loss_by_other_names(name: str) -> None:
    """R8: it hands on its configuration, which may ask for another kind of loss."""
    model = CLASSIFIERS[name]()
    model.loss_function = ClassificationLoss()
    labels = torch.zeros(2, LENGTH, dtype=torch.int64)
    given = {"pixel_values": torch.zeros(2, 3, 4, 4)} if "first" in name else {"input_ids": labels}
    with pytest.raises(ArgumentError, match="ClassificationLoss") as caught:
        model(**given, labels=labels if name == "by position" else labels[:, 0])
    assert "Trainer(compute_loss_func=ClassificationLoss())" in str(caught.value.fixes)


def test_a_module_that_a_property_hides_is_noticed() -> None:
    """Torch keeps the module, and the model its own loss: told when the mode is set."""
    task = model_of("llama")
    expected = own_loss(task)
    task.model.loss_function = CrossEntropyLoss()
    assert torch.equal(own_loss(task), expected)
    for mode in (True, False):
        with pytest.warns(LossInputWarning, match="loss_function is a property") as told:
            task.model.train(mode)
        assert told[0].filename == __file__
        assert not task.model.training or mode
    (code,) = re.findall(r": (del model.*\(\)), of", str(told[0].message))
    exec(code, {"model": task.model, "CausalLMLoss": CausalLMLoss})  # noqa: S102 (our own text)
    task.model.train()
    torch.testing.assert_close(own_loss(task), expected, rtol=1e-6, atol=0)

    class Owner(torch.nn.Module):
        """A model of people, whose attribute is none of a property."""

        def __init__(self) -> None:
            super().__init__()
            self.loss_function = CrossEntropyLoss()

    assert not Owner().train(mode=False).loss_function.training


@pytest.mark.parametrize("kind", [CausalLMLoss, ClassificationLoss])
def test_a_class_in_place_of_an_instance_is_answered(kind: Any, tmp_path: Any) -> None:
    """R8: by a real `Trainer`, in its first step."""
    task = model_of("llama")._replace(loss=kind)
    with pytest.raises(ArgumentError, match=rf"{kind.__name__}\(\)"):
        trainer_of(task, tmp_path).train()


@pytest.mark.parametrize("given", ["balanced", {0: 1.0, 1: 2.0}])
def test_class_weights_by_name_tell_their_array(given: Any) -> None:
    """R7: of both losses, when they are made."""
    for kind in (CausalLMLoss, ClassificationLoss):
        with pytest.raises(BackendError, match=r"must be an array of shape \(C,\)") as info:
            kind(class_weight=given)
        assert "class_weight = " in str(info.value)


@pytest.mark.parametrize("kind", [CausalLMLoss, ClassificationLoss])
def test_options_are_checked(kind: Any) -> None:
    """Issue 11, R8: when the loss is made."""
    for value in ({"aux_loss": float("nan")}, {"aux_loss": "much"}, {"aux_loss": None}, [0.1]):
        with pytest.raises(OptionError, match="model_losses"):
            kind(model_losses=value)
    for number in (-1, 1.5, "4", None):
        with pytest.raises(OptionError, match="virtual_tokens"):
            kind(virtual_tokens=number)
    text = repr(kind(model_losses={"aux_loss": 0.5}, virtual_tokens=4))
    assert "model_losses={'aux_loss': 0.5}, virtual_tokens=4" in text


def test_compiles_once_for_all_numbers_and_lengths() -> None:
    """Issue 11: at most twice for any lengths, and for any numbers of labels."""
    loss, count = CausalLMLoss(model_losses={"aux_loss": 0.5}), CompileCounter()
    compiled = torch.compile(loss, fullgraph=True, backend=count)
    kind = transformers.modeling_outputs.MoeCausalLMOutputWithPast

    def check(length: int, items: Any) -> None:
        outputs = kind(logits=torch.randn(2, length, 5), aux_loss=torch.tensor(2.0))
        labels = torch.ones(2, length, dtype=torch.int64)
        torch.testing.assert_close(compiled(outputs, labels, items), loss(outputs, labels, items))

    for length in range(4, 9):
        check(length, torch.tensor(length))
    assert count.frame_count <= 2
    for items in (8, 0, 1, 7, 6, 5):
        check(4, items)
    assert count.frame_count <= 5
