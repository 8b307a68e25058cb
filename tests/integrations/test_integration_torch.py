"""`unified_loss.integrations.torch` in torch's own tools, and in Lightning's and skorch's."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate
from tests.helpers.backends import Backend
from tests.helpers.problems import Problem, sample
from tests.helpers.torch_cases import CASES, EVERYTHING, TORCH, problem_of
from unified_loss import (
    ArgumentError,
    BackendError,
    DTypeError,
    OptionError,
    ShapeError,
    cross_entropy,
)

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402 (as it is needed after the line above)

from unified_loss._backends.torch import TorchBackend  # noqa: E402
from unified_loss.integrations.torch import CrossEntropyLoss  # noqa: E402


@pytest.fixture(autouse=True)
def _fresh(installed: list[Backend]) -> None:
    if TORCH not in installed:
        pytest.skip("torch is not under test")
    torch._dynamo.reset()


def module_of(problem: Problem, dtype: str = "float32") -> tuple[Any, tuple[Any, ...], Any]:
    """The module of a problem's options, and the arguments of its call."""
    arrays = TORCH.place(problem, dtype)
    options = dict(problem.options)
    keywords = {"sample_weight": arrays.get("sample_weight")}
    keywords["normalizer"] = options.pop("normalizer")
    module = CrossEntropyLoss(class_weight=arrays.get("class_weight"), **options)
    return module, (arrays["logits"], arrays["labels"]), keywords


@pytest.fixture
def full(rng: Generator) -> tuple[Problem, Any, tuple[Any, ...], Any]:
    """A problem with every option, as a module."""
    problem = sample(rng, **EVERYTHING)
    return problem, *module_of(problem)


@pytest.mark.parametrize("case", CASES)
def test_the_module_is_the_function(case: str, rng: Generator) -> None:
    """Issue 6, R22: every option reaches the loss, and gradients the logits."""
    problem = problem_of(case, rng)
    module, (logits, labels), keywords = module_of(problem)
    logits.requires_grad_()
    losses = module(logits, labels, **keywords)
    losses.sum().backward()
    assert_accurate(losses.detach().numpy(), problem, "float32")
    assert_accurate(logits.grad.numpy(), problem, "float32", "gradient")


def test_options_are_those_of_the_function() -> None:
    """Issue 6, R27: the same names and defaults, but for what changes with every batch."""
    forward = {"sample_weight", "normalizer"}
    defaults = cross_entropy.__kwdefaults__
    constructed = {name: value for name, value in defaults.items() if name not in forward}
    assert CrossEntropyLoss.__init__.__kwdefaults__ == constructed | {"persistent": True}
    assert CrossEntropyLoss.forward.__kwdefaults__ == dict.fromkeys(forward)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"axis": 1.5}, OptionError),
        ({"ignore_index": 0.5}, OptionError),
        ({"label_smoothing": 2}, OptionError),
        ({"label_smoothing": "0.1"}, OptionError),
        ({"z_loss": -1}, OptionError),
        ({"z_loss": float("nan")}, OptionError),
        ({"reduction": "average"}, OptionError),
        ({"check": 1}, OptionError),
        ({"class_weight": [[1.0, 2.0]]}, ShapeError),
        ({"class_weight": 3}, ShapeError),
        ({"class_weight": torch.ones(2, dtype=torch.bool)}, DTypeError),
        ({"class_weight": ["a", "b"]}, DTypeError),
        ({"class_weight": [[1], [1, 2]]}, BackendError),
        ({"class_weight": np.ma.masked_array([1.0, 2.0], [False, True])}, BackendError),
    ],
    ids=str,
)
def test_bad_options_stop_the_constructor(options: dict[str, Any], error: type) -> None:
    """Issue 6, R8: with the error and the words of a call."""
    with pytest.raises(error, match=next(iter(options))):
        CrossEntropyLoss(**options)


def test_a_group_is_passed_on() -> None:
    """R33: what is no group is refused when the module is made."""
    for group in ("classes", 3):
        with pytest.raises(OptionError, match="class_group"):
            CrossEntropyLoss(class_group=group)
    with mock.patch.object(TorchBackend, "group", lambda _, group: group):
        module = CrossEntropyLoss(class_group="classes")
    assert "class_group='classes'" in repr(module)
    with pytest.raises(OptionError, match="class_group"):  # by the call that it reaches
        module(torch.zeros(2, 3), torch.tensor([0, 1]))


def test_options_of_numpy_become_those_of_python() -> None:
    """Issue 6: as a grid of hyperparameters has them, and `torch.compile` does not take them."""
    module = CrossEntropyLoss(
        axis=np.int64(1), label_smoothing=np.float64(0.25), ignore_index=np.uint8(255)
    )
    assert repr(module) == "CrossEntropyLoss(axis=1, ignore_index=255, label_smoothing=0.25)"
    assert {type(module.axis), type(module.ignore_index)} == {int}
    assert type(module.label_smoothing) is float


def test_repr_shows_what_is_not_the_default() -> None:
    """Issue 6: also where it is a part of another module."""
    assert repr(CrossEntropyLoss()) == "CrossEntropyLoss()"
    module = CrossEntropyLoss(class_weight=[1, 2], ignore_index=None, reduction="sum", check=False)
    text = "CrossEntropyLoss(class_weight=(2 classes), ignore_index=None, reduction='sum', "
    assert repr(module) == text + "check=False)"
    assert f"(0): {text}" in repr(nn.Sequential(module))


@pytest.mark.parametrize("weights", [[1, 2, 3], (0.5, 1.0, 2.0), np.array([1, 2, 3], np.uint8)])
def test_class_weights_become_a_floating_buffer(weights: Any) -> None:
    """Issue 6, R7: of torch's default dtype, so that `.to` casts it."""
    module = CrossEntropyLoss(class_weight=weights)
    assert module.class_weight.dtype == torch.float32
    assert module.class_weight.tolist() == list(weights)
    assert dict(module.named_buffers()).keys() == {"class_weight"}
    assert not list(module.parameters())


def test_weights_of_classes_have_their_own_name() -> None:
    """R8: what is assigned under torch's name would do nothing."""
    module = CrossEntropyLoss()
    with pytest.raises(ArgumentError, match="here it is class_weight="):
        module.weight = torch.ones(3)
    assert not hasattr(module, "weight")
    assert "weight" not in copy.deepcopy(module).state_dict()


def test_class_weights_move_with_the_module() -> None:
    """Issue 6: to another dtype and another device, as a part of a model."""
    model = nn.ModuleDict({"head": nn.Linear(2, 3), "loss": CrossEntropyLoss(class_weight=[1] * 3)})
    assert model.to(torch.float64)["loss"].class_weight.dtype == torch.float64
    model.to("meta")
    assert model["loss"].class_weight.is_meta
    logits = model["head"](torch.zeros(5, 2, dtype=torch.float64, device="meta"))
    loss = model["loss"](logits, torch.zeros(5, dtype=torch.int64, device="meta"))
    assert loss.is_meta
    assert loss.shape == ()


def test_a_tensor_of_class_weights_can_be_learned() -> None:
    """Issue 6, R22: a floating tensor is kept as it is, with its dtype and its graph."""
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    CrossEntropyLoss(class_weight=weights)(torch.eye(3), torch.tensor([0, 1, 1])).backward()
    assert weights.grad.shape == (3,)
    weights = nn.Parameter(torch.ones(3))
    assert CrossEntropyLoss(class_weight=weights).class_weight is weights


def test_state_dict_round_trip(full: Any) -> None:
    """Issue 6: class weights are saved and loaded, and nothing else is."""
    problem, module, pair, keywords = full
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = CrossEntropyLoss(class_weight=torch.zeros_like(module.class_weight))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.class_weight, module.class_weight)
    assert not CrossEntropyLoss(label_smoothing=0.1).state_dict()
    assert_accurate(module(*pair, **keywords).numpy(), problem, "float32")


COPIES = {
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),  # noqa: S301 (its own)
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_equal(name: str, full: Any) -> None:
    """Issue 6: with the same options, weights and bits."""
    _, module, pair, keywords = full
    copied = COPIES[name](module)
    assert repr(copied) == repr(module)
    assert torch.equal(copied(*pair, **keywords), module(*pair, **keywords))
    assert (copied.class_weight is module.class_weight) == (name == "copy")


@pytest.mark.parametrize("dynamic", [None, False, True])
def test_compiles_into_one_graph(*, dynamic: bool | None, full: Any, rng: Generator) -> None:
    """Issue 6, R23: no break, and as many graphs as torch's own module for other batch sizes."""
    from torch._dynamo.testing import CompileCounterWithBackend

    graphs, of_torch = (CompileCounterWithBackend("aot_eager") for _ in range(2))
    problem, module, _, _ = full
    native = nn.CrossEntropyLoss(label_smoothing=problem.label_smoothing)
    native = torch.compile(native, backend=of_torch, fullgraph=True, dynamic=dynamic)
    step = torch.compile(module, backend=graphs, fullgraph=True, dynamic=dynamic)
    for rows in (6, 6) if dynamic is False else (6, 7, 9, 12):
        batch = sample(rng, batch=(rows,), **EVERYTHING).but(class_weight=problem.class_weight)
        _, (logits, labels), keywords = module_of(batch)
        native(logits.requires_grad_(), labels.long())
        loss = step(logits, labels, **keywords)
        loss.backward()
        assert_accurate(loss.detach().numpy(), batch, "float32")
        assert_accurate(logits.grad.numpy(), batch, "float32", "gradient")
    assert graphs.frame_count == of_torch.frame_count


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_an_unknown_batch(*, strict: bool, full: Any, rng: Generator) -> None:
    """Issue 6, R23: the program holds the class weights, and takes any number of rows."""
    problem, module, pair, keywords = full
    sizes = {name: {0: torch.export.Dim("n")} for name in ("logits", "labels", "sample_weight")}
    program = torch.export.export(
        module, pair, keywords, dynamic_shapes=sizes | {"normalizer": None}, strict=strict
    )
    assert list(program.state_dict) == ["class_weight"]
    batch = sample(rng, batch=(9,), **EVERYTHING).but(class_weight=problem.class_weight)
    _, pair, keywords = module_of(batch)
    assert_accurate(program.module()(*pair, **keywords).numpy(), batch, "float32")


def digits() -> tuple[Any, Any]:
    """Images of digits, and what they show."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images[:400] / 16).astype(np.float32), labels[:400].astype(np.int64)


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",  # the data are in memory
    "ignore:.*logging interval:UserWarning",  # nothing is logged
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",  # Lightning's own
)
def test_lightning_fits(tmp_path: Path) -> None:
    """Issue 6: a `Trainer` trains with it, and its checkpoint has the class weights."""
    lightning = pytest.importorskip("pytorch_lightning")

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)
            self.loss = CrossEntropyLoss(class_weight=np.linspace(1, 2, 10), label_smoothing=0.1)
            self.losses: list[float] = []

        def training_step(self, batch: Any, _index: int) -> Any:
            loss = self.loss(self.head(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.02)

    lightning.seed_everything(0)
    data = torch.utils.data.TensorDataset(*map(torch.from_numpy, digits()))
    model = Classifier()
    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        precision="bf16-mixed",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=50, shuffle=True))
    assert np.mean(model.losses[-8:]) < np.mean(model.losses[:8]) / 2
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(loaded.loss.class_weight, torch.linspace(1, 2, 10))
    assert torch.equal(loaded.head.weight, model.head.weight)


def test_skorch_searches_a_grid_of_options() -> None:
    """Issue 6: `NeuralNetClassifier.fit` in scikit-learn's `GridSearchCV`."""
    skorch = pytest.importorskip("skorch")
    from sklearn.model_selection import GridSearchCV

    torch.manual_seed(0)
    images, labels = digits()
    net = skorch.NeuralNetClassifier(
        nn.Linear,
        module__in_features=64,
        module__out_features=10,
        criterion=CrossEntropyLoss,
        criterion__class_weight=[1.0] * 10,
        predict_nonlinearity=nn.Softmax(dim=-1),
        optimizer=torch.optim.Adam,
        lr=0.02,
        batch_size=32,
        max_epochs=5,
        verbose=0,
    )
    grid = {"criterion__label_smoothing": np.array([0.0, 0.1, 1.0])}
    search = GridSearchCV(net, grid, cv=3, scoring="neg_log_loss", error_score="raise")
    search.fit(images, labels)
    smoothed_away = search.cv_results_["mean_test_score"][2]
    assert smoothed_away == pytest.approx(-np.log(10), rel=0.2)
    assert search.best_params_["criterion__label_smoothing"] == 0
    assert search.best_score_ > smoothed_away / 2
    best = search.best_estimator_
    assert best.score(images, labels) > 0.85
    np.testing.assert_allclose(best.predict_proba(images).sum(axis=1), 1, rtol=1e-5)
    restored = pickle.loads(pickle.dumps(best))  # noqa: S301 (its own)
    assert np.array_equal(restored.predict(images), best.predict(images))
