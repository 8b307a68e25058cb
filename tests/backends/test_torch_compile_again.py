"""R3, R23 on torch: what is compiled for the first batch serves the next ones."""

import copy
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.backends import Backend
from tests.helpers.torch_cases import TORCH
from unified_loss import BackendError, cross_entropy
from unified_loss.integrations.torch import CrossEntropyLoss

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _fresh(installed: list[Backend]) -> None:
    if TORCH not in installed:
        pytest.skip("torch is not under test")
    torch._dynamo.reset()


class Counted:
    """A function as one graph, and how often it was compiled."""

    def __init__(self, function: Callable[..., Any], backend: str, **options: Any) -> None:
        self.count = 0
        self.backend = backend
        self.run = torch.compile(function, backend=self, fullgraph=True, **options)

    def __call__(self, graph: Any, inputs: Any) -> Any:
        """Compile one graph."""
        self.count += 1
        return torch._dynamo.lookup_backend(self.backend)(graph, inputs)


def agree(step: Counted, loss: Callable[..., Any], logits: Any, *others: Any) -> None:
    """Compare a compiled loss and its gradient with the eager ones; a warning is an error."""
    logits.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = step.run(logits, *others)
        (slope,) = torch.autograd.grad(found, logits)
    wanted = loss(logits, *others)
    (truth,) = torch.autograd.grad(wanted, logits)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(slope, truth)


def batch(shape: tuple[int, ...], axis: int, kind: str) -> tuple[Any, Any]:
    """Logits and labels of a shape."""
    logits = torch.randn(shape)
    if kind == "dense":
        return logits, torch.softmax(torch.randn(shape), axis)
    labels = torch.randn(shape).argmax(axis, keepdim=kind == "kept")
    return logits, labels


TOKENS = [(2, 8, 5), (2, 7, 5), (2, 5, 5), (3, 5, 5), (4, 11, 5)]
IMAGES = [(2, 3, 8, 6), (2, 3, 7, 9), (2, 3, 3, 3), (4, 3, 9, 7), (4, 3, 3, 4)]


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("kind", ["index", "kept"])
@pytest.mark.parametrize(("shapes", "axis"), [(TOKENS, -1), (IMAGES, 1)], ids=["tokens", "images"])
def test_other_lengths_and_images_are_served(
    shapes: list[tuple[int, ...]], axis: int, kind: str, compiler: str
) -> None:
    """R3: also where a length is the number of classes, without a graph for it."""
    step = Counted(cross_entropy, compiler)
    for shape in shapes:
        arrays = batch(shape, axis, kind)
        agree(step, lambda *pair: cross_entropy(*pair, axis=axis), *arrays)
    assert step.count == 3  # the first, other lengths, and other batches


def test_shifted_slices_are_served() -> None:
    """R3: the labels of the next token, logits and labels cut in the compiled function."""
    step = Counted(lambda x, y: cross_entropy(x[:, :-1], y[:, 1:]), "aot_eager")
    for shape in ((2, 8, 5), (2, 7, 5), (2, 6, 5), (2, 12, 5)):
        arrays = batch(shape, -1, "index")
        agree(step, lambda x, y: cross_entropy(x[:, :-1], y[:, 1:], axis=-1), *arrays)
    assert step.count == 2


def test_dense_labels_of_other_lengths_need_no_axis_once_the_classes_are_known() -> None:
    """R3: the first batch needs it, since both readings fit; a static number of classes tells."""
    step = Counted(cross_entropy, "aot_eager")
    for shape in ((2, 8, 5), (2, 7, 5)):
        logits, labels = batch(shape, -1, "dense")
        for tensor in (logits, labels):
            torch._dynamo.mark_dynamic(tensor, 1)
        agree(step, lambda *pair: cross_entropy(*pair, axis=-1), logits, labels)
    assert step.count == 1


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_other_numbers_of_classes_are_served(compiler: str) -> None:
    """R3: sizes of which no guard says more than that the axis is not the other one."""
    step = Counted(cross_entropy, compiler)
    shapes = (2, 8, 5), (2, 8, 6), (3, 8, 7), (4, 8, 9), (4, 6, 9)
    for shape in shapes:
        agree(step, lambda *pair: cross_entropy(*pair, axis=-1), *batch(shape, -1, "index"))
    assert step.count == 4
    with pytest.raises(Exception, match="the class axis is ambiguous"):
        step.run(*batch((2, 8, 8), -1, "index"))


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_values_decide_where_all_sizes_are_unknown(compiler: str, *, dynamic: bool | None) -> None:
    """R3: under guards, as they do eagerly, whichever axis holds the classes."""
    step = Counted(cross_entropy, compiler, dynamic=dynamic)
    for shape in ((2, 8, 5), (3, 9, 6), (4, 6, 7)):
        for axis in (1, -1):
            agree(step, lambda *pair, a=axis: cross_entropy(*pair, axis=a),
                  *batch(shape, axis, "index"))  # fmt: skip
    with pytest.raises(Exception, match="the class axis is ambiguous"):
        step.run(*batch((5, 6, 6), -1, "index"))


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("values", [(3, 4, 1, 7, 2**31), (3.5, 4.25, 1.0, 1e-3, 7.0)], ids=type)
def test_a_number_to_divide_by_is_compiled_twice_at_most(
    values: tuple[Any, ...], compiler: str, *, dynamic: bool | None
) -> None:
    """R23: a normalizer changes with every batch; one that is refused still is."""

    def loss(logits: Any, labels: Any, number: Any) -> Any:
        return cross_entropy(logits, labels, normalizer=number)

    step = Counted(loss, compiler, dynamic=dynamic)
    logits, labels = batch((6, 5), -1, "index")
    for value in values:
        agree(step, loss, logits, labels, value)
    assert step.count <= 2
    refused = 1e-46 if isinstance(values[0], float) else -1
    for value in (type(values[0])(0), type(values[0])(-2), refused):
        with pytest.raises(Exception, match="normalizer must be a number"):
            step.run(logits, labels, value)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("dtype", ["int64", "uint8", "int8", "uint64"])
def test_an_ignored_label_is_compiled_twice_at_most(dtype: str, compiler: str) -> None:
    """R6, R23: any sequence of values, those that the labels cannot hold as well."""

    def loss(logits: Any, labels: Any, ignored: int) -> Any:
        return cross_entropy(logits, labels, ignore_index=ignored)

    step = Counted(loss, compiler)
    logits = torch.randn(6, 5)
    labels = torch.tensor([0, 1, 2, 3, 4, 2], dtype=getattr(torch, dtype))
    for value in (-100, 2, 255, 1, 0, -1, 258, -254, 2**40 + 1):  # 258 is 2 in 8 bits
        agree(step, loss, logits, labels, value)
    assert step.count <= 2


@pytest.mark.parametrize("dynamic", [None, True])
def test_the_losses_of_transformers_take_any_number_of_items(*, dynamic: bool | None) -> None:
    """R23: `num_items_in_batch` is another Python number in each step."""
    modules = pytest.importorskip("unified_loss.integrations.transformers")
    made = modules.CausalLMLoss()

    def loss(logits: Any, labels: Any, items: int) -> Any:
        return made(logits, labels, num_items_in_batch=items)

    step = Counted(loss, "aot_eager", dynamic=dynamic)
    logits, labels = batch((2, 6, 5), -1, "index")
    for items in (3, 7, 1, 12):
        agree(step, loss, logits, labels, items)
    assert step.count <= 2


def output_of(*arguments: str) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", *arguments], capture_output=True, text=True, check=True, timeout=600
    )
    return done.stdout.strip()


CHECKPOINT = """
import sys, torch
from torch.utils.checkpoint import checkpoint
from unified_loss import cross_entropy

layer, labels = torch.nn.Linear(4, 5), torch.tensor([0, 1, 2, 3, -100, 2])
step = torch.compile(lambda x: cross_entropy(layer(x), labels), backend="eager")
x = torch.randn(6, 4, requires_grad=True)
wanted = torch.autograd.grad(torch.nn.functional.cross_entropy(layer(x), labels), x)[0]
for _ in range(3):
    x.grad = None
    checkpoint(step, x, use_reentrant=sys.argv[1] == "reentrant").backward()
    torch.testing.assert_close(x.grad, wanted)
print("done")
"""


@pytest.mark.parametrize("way", ["reentrant", "not"])
def test_a_checkpoint_around_a_compiled_loss_works_from_the_first_call(way: str) -> None:
    """R23: a compiled call takes one way whatever calls there were, so it saves the same."""
    assert output_of(CHECKPOINT, way) == "done"


def _pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))  # noqa: S301 (its own)


class Model(torch.nn.Module):
    """A model that holds its loss, or calls a function."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 5)
        self.loss = loss

    def forward(self, x: Any, labels: Any) -> Any:
        """The loss of a batch."""
        return self.loss(self.layer(x), labels)


def test_symbolic_trace_records_the_module() -> None:
    """R23: as it records torch's own: one node, that can be traced again, copied and pickled."""
    model = Model(CrossEntropyLoss(class_weight=[1.0, 2, 3, 4, 5], label_smoothing=0.1))
    x, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 4, -100])
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [
        cross_entropy
    ]
    again = torch.fx.symbolic_trace(traced)
    for graph in (traced, again, copy.deepcopy(traced), _pickled(traced)):
        torch.testing.assert_close(graph(x, labels), model(x, labels))


WRAPPED = """
import torch
from unified_loss import cross_entropy

WRAP

class Model(torch.nn.Module):
    def forward(self, x, y):
        return cross_entropy(x, y)

traced = torch.fx.symbolic_trace(Model())
print(f"{traced(torch.zeros(2, 3), torch.tensor([0, 1])):.4f}")
"""


def test_symbolic_trace_of_the_function_is_refused_with_a_fix_that_runs() -> None:
    """R25: a function that torch does not know is wrapped by the module that calls it."""
    with pytest.raises(BackendError) as caught:
        torch.fx.symbolic_trace(Model(cross_entropy))
    fix = str(caught.value).partition("hint: ")[2].partition(" at the top")[0]
    assert output_of(WRAPPED.replace("WRAP", fix)) == "1.0986"
