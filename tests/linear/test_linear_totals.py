"""R35 and R36 without logits: the totals of the linear form, on every backend, by every walk."""

import random
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.backends import Backend
from tests.helpers.totals import Expected, expected
from tests.linear.cases import (
    HEAD,
    KINDS,
    VARIANTS,
    Linear,
    assert_near,
    cases,
    linear,
    place,
    truth,
)
from tests.linear.conftest import by_classes
from unified_loss import (
    ArgumentError,
    BackendError,
    LabelError,
    RunningCrossEntropy,
    ShapeError,
    Totals,
    linear_cross_entropy_totals,
)

OWN = ("reduction", "normalizer")  # of a loss alone


@pytest.fixture(params=["two_steps", "classes"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ways of totals, in tiles of two rows and two classes."""
    name: str = request.param
    if name == "classes":
        by_classes(monkeypatch)
    return name


def without_division(case: Linear) -> Linear:
    """The call whose options totals take."""
    return case.but(reduction="sum", normalizer=None)


def options_of(case: Linear) -> dict[str, Any]:
    """The options of the totals."""
    return {name: one for name, one in case.options.items() if name not in OWN}


def totals(backend: Backend, case: Linear, dtype: str, mode: str = "eager") -> Totals:
    """The totals as arrays of the library."""
    with backend.precision(dtype):
        arrays = place(backend, case, dtype)
        return backend.on_arrays(linear_cross_entropy_totals, arrays, mode, **options_of(case))


def numbers(backend: Backend, found: Totals, dtype: str) -> Expected:
    """The same in float64."""
    with backend.precision(dtype):
        return Expected(*(float(backend.to_numpy(each)) for each in found))


def wanted(case: Linear) -> Expected:
    """What the contract says of the logits."""
    hidden, weight = (part.astype(np.float64) for part in (case.hidden, case.weight))
    with np.errstate(all="ignore"):
        x = hidden @ weight.T + (0 if case.bias is None else case.bias)
        x = x if case.softcap is None else np.tanh(x / case.softcap) * case.softcap
        return expected(case.problem.but(logits=x))


def assert_agree(found: Expected, case: Linear, dtype: str) -> None:
    """The formula, to rounding; counts are exact."""
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(found, wanted(case), rtol=tolerance, atol=tolerance)
    assert found.count == wanted(case).count


@pytest.mark.parametrize("variant", VARIANTS)
def test_totals_are_those_of_the_logits(
    backend: Backend, mode: str, variant: str, rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R28, R35: every kind of label, weight and option, in one dtype each."""
    turn = list(VARIANTS).index(variant)
    dtype = backend.floats[turn % len(backend.floats)]
    if variant != "plain":
        by_classes(monkeypatch)
    for case in cases(rng, backend, mode, dtype, variant):
        if case.problem.reduction == "sum" or mode in backend.compiles:
            given = without_division(case)
            found = numbers(backend, totals(backend, given, dtype, mode), dtype)
            assert_agree(found, given, "float32" if backend.name == "mlx" else dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_options_that_hide_the_label(
    backend: Backend, kind: Any, rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R35: full smoothing, weights of label rows, and a label of weight 0 at a masked class."""
    by_classes(monkeypatch)
    options = {"class_weight": True, "bias": True, "sample_weight": "full", "reduction": "sum"}
    for smoothing in (0.25, 1.0):
        case = linear(rng, kind, **options, label_smoothing=smoothing)
        assert_agree(numbers(backend, totals(backend, case, "float32"), "float32"), case, "float32")
        if kind == "index":
            weight, bias = case.problem.class_weight.copy(), case.bias.copy()
            weight[0], bias[0] = 0, -np.inf
            case = case.but(class_weight=weight, bias=bias, labels=np.zeros(6, np.int32))
            found = numbers(backend, totals(backend, case, "float32"), "float32")
            assert (found.nll, found.correct, found.count) == (np.inf, 0, 6)


def test_dropped_rows_add_nothing(
    backend: Backend, mode: str, rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R16, R30, R35: whatever their hidden states hold; all may be dropped."""
    by_classes(monkeypatch)
    for dropped in ([1, 4], range(6)):
        case = linear(rng, reduction="sum", label_smoothing=0.125)
        labels, hidden = case.problem.labels.copy(), case.hidden.copy()
        labels[dropped] = -100
        clean = case.but(labels=labels)
        hidden[dropped] = np.nan
        found = numbers(
            backend, totals(backend, clean.but(hidden=hidden), "float32", mode), "float32"
        )
        assert_agree(found, clean, "float32")
    empty = linear(rng, batch=(0,), reduction="sum")
    assert numbers(backend, totals(backend, empty, "float32"), "float32").count == 0


@pytest.mark.needs_autodiff
def test_loss_and_nll_are_differentiable(backend: Backend, way: str, rng: Generator) -> None:
    """R31, R35: a training step has its metrics for free."""
    options = {"bias": True, "reduction": "sum", "label_smoothing": 0.125, "z_loss": 0.25}
    masked = linear(rng, **options)
    masked.problem.labels[0] = -100
    for case in (masked, linear(rng, "dense", class_weight=True, **options)):
        arrays = place(backend, case, "float32")
        names = tuple(arrays)
        plain = case.but(label_smoothing=0.0, z_loss=0.0, class_weight=None)
        for field, like in (("loss", case), ("nll", plain)):

            def one(*values: Any, field: str = field, names: Any = names) -> Any:
                given = dict(zip(names, values, strict=True))
                return getattr(linear_cross_entropy_totals(**given, **options_of(masked)), field)

            places = [names.index(name) for name in HEAD]
            _, slopes = backend.library.value_and_gradients(one, places)(*arrays.values())
            for slope, true in zip(slopes, truth(like)[1:], strict=True):
                assert_near(backend.to_numpy(slope), true, "float32")


def test_running_form_takes_hidden_states(backend: Backend, way: str, rng: Generator) -> None:
    """R36: the value is that of the logits, and no order changes a bit."""
    case = linear(rng, batch=(9,), bias=True, softcap=2.0, label_smoothing=0.25)
    case.problem.labels[2] = -100
    weight, bias = backend.asarray(case.weight), backend.asarray(case.bias)
    parts = [
        (backend.asarray(case.hidden[i : i + 3]), case.problem.labels[i : i + 3]) for i in (0, 3, 6)
    ]
    found = set()
    for seed in range(3):
        random.Random(seed).shuffle(parts)  # noqa: S311 (no secret)
        running, other = (RunningCrossEntropy(axis=1, label_smoothing=0.25) for _ in range(2))
        for turn, (some, labels) in enumerate(parts):
            owner = running if turn % 2 else other
            owner.update_linear(some, weight, labels, bias=bias, softcap=2.0)
        running.merge(other)
        found.add(running.compute())
    (value,) = found
    true = wanted(without_division(case))
    assert value.count == true.count == 8
    assert value.loss == pytest.approx(true.loss / true.mass, 1e-5)
    assert value.accuracy == pytest.approx(true.correct / true.weight, 1e-12)
    assert value.confidence == pytest.approx(true.confidence / true.weight, 1e-5)


def test_update_is_refused_while_tracing(backend: Backend, rng: Generator) -> None:
    """R36: there are no numbers to hold."""
    if backend.modes == ("eager",) or backend.name == "dask":
        pytest.skip("nothing is traced")
    running, case = RunningCrossEntropy(), linear(rng)

    def step(hidden: Any, weight: Any, labels: Any) -> Any:
        running.update_linear(hidden, weight, labels)
        return hidden

    refused = pytest.raises(Exception if backend.name == "torch" else BackendError)
    with refused as told:
        if backend.name == "tensorflow":  # AutoGraph takes seconds to read the package
            traced = backend.library.compiled(step, autograph=False)
        else:
            traced = backend.trace(step)
        traced(**place(backend, case, "float32"))
    assert "there are none while a program is traced" in str(told.value)
    assert running.compute().count == 0


def test_mistakes_are_refused() -> None:
    """R25, R26: in our words, and the sums are those of before."""
    running = RunningCrossEntropy()
    hidden, weight = np.zeros((2, 3)), np.zeros((4, 3))
    for refused, given, more in (
        (ShapeError, (hidden, weight.T, [0, 1]), {}),
        (LabelError, (hidden, weight, [0, 4]), {}),
        (ArgumentError, (hidden, weight), {}),
        (ArgumentError, (hidden, weight, [0, 1], 7), {}),
        (ArgumentError, (hidden, weight, [0, 1]), {"reduction": "sum"}),
        (BackendError, ("hidden", weight, [0, 1]), {}),
    ):
        for function in (running.update_linear, linear_cross_entropy_totals):
            with pytest.raises(refused):
                function(*given, **more)  # type: ignore[arg-type, misc]
    assert running.compute().count == 0


def test_an_unwatched_tensor_keeps_nothing(torch_is_under_test: None, rng: Generator) -> None:
    """R36: no graph and no gradient of a weight that is trained."""
    torch = pytest.importorskip("torch")
    case = linear(rng)
    weight = torch.tensor(case.weight, requires_grad=True)
    running = RunningCrossEntropy()
    running.update_linear(torch.tensor(case.hidden), weight, torch.tensor(case.problem.labels))
    for _, sent in running._pending:
        assert not any(part.requires_grad for part in sent._parts)
    assert running.compute().count == 6
