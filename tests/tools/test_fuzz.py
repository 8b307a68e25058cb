"""A short run of the fuzzer on every backend, and what it rests on."""

import warnings

import numpy as np
import pytest

from tests.fuzz import oracle
from tests.fuzz.alarms import false_alarms
from tests.fuzz.calls import DIFFERENTIABLE, Call, Case, Form, is_floating
from tests.fuzz.draws import draw_case, draw_form
from tests.fuzz.oracle import WIDE, Point, truth
from tests.fuzz.runners import Results, Run, Runner
from tests.fuzz.session import Fault, Session, choose, examined
from tests.fuzz.shrink import report, shrunk
from tests.helpers.reference import evaluate
from unified_loss import cross_entropy

SEED = 20240917
CALLS = {"numpy": 400, "torch": 300, "jax": 180, "tensorflow": 120, "dask": 40}  # of others 120
DRAWS = 20  # through one form
STEP = WIDE(1e-6)
HUGE = 1e6  # a logit that such a step does not move


def test_nothing_is_wrong_in_a_short_run(backend):
    """Values, gradients and second derivatives are true, whatever dropped examples hold."""
    session = Session(SEED, choose([backend.name]))
    faults = list(session.run(CALLS.get(backend.name, 120), DRAWS))
    assert not faults, "\n\n".join(map(report, faults[:3]))
    assert session.skipped < session.calls.total() / 10


NAN, INF = np.nan, np.inf
FOUND = {
    "class weights of no example": (
        Call(
            np.zeros((0, 1), np.float32),
            np.zeros(0, np.int32),
            1,
            -1,
            class_weight=np.zeros(1, np.float32),
            ignore_index=None,
            label_smoothing=0.25,
            reduction="none",
        ),
        Form(
            batch=(0,),
            classes=1,
            labels="int32",
            class_weight="float32",
            ignore_index=None,
            label_smoothing=0.25,
            reduction="none",
        ),
    ),
    "a label of 0 on the one NaN": (
        Call(
            np.array([[NAN, 0, 0.25]], np.float32),
            np.array([[0, -1, 7]], np.float32),
            1,
            -1,
            sample_weight=np.zeros(1, np.float32),
            z_loss=0.125,
            reduction="sum",
        ),
        Form(batch=(1,), kind="dense", labels="float32", z_loss=0.125, reduction="sum"),
    ),
    "an infinite own loss where all weights are 0": (
        Call(
            np.array([[0, 0, 0], [-INF, 0, 0]], np.float32),
            np.array([2, 1]),
            1,
            -1,
            class_weight=np.array([0.75, 0, 0], np.float32),
            sample_weight=np.array([1.5, 0], np.float32),
            label_smoothing=0.125,
        ),
        Form(batch=(2,), class_weight="float32", label_smoothing=0.125),
    ),
    "a class weight of 0 on a masked label": (
        Call(
            np.array([[-INF, 0, -INF], [1, 2, 3]], np.float32),
            np.array([0, 2]),
            1,
            -1,
            class_weight=np.array([0, 1, 1], np.float32),
        ),
        Form(batch=(2,), class_weight="float32"),
    ),
    "a masked label that is dropped": (
        Call(
            np.array([[0, -INF, -0.25]], np.float32),
            np.array([[0, 7, 0]], np.float32),
            1,
            -1,
            sample_weight=np.zeros(1, np.float32),
            reduction="sum",
        ),
        Form(batch=(1,), kind="dense", labels="float32", reduction="sum"),
    ),
    "huge labels that cancel": (
        Call(
            np.array([[0, 0]], np.float32),
            np.array([[3e38, -3e38]], np.float32),
            1,
            -1,
            sample_weight=np.zeros(1, np.float32),
            reduction="sum",
        ),
        Form(batch=(1,), classes=2, kind="dense", labels="float32", reduction="sum"),
    ),
    "a huge label that is dropped": (
        Call(
            np.array([[0, 1, 2], [-50, -INF, 7], [1, 2, 3]], np.float32),
            np.array([[0.5, 0.5, 0], [0, -3e38, 7], [3e38, 3e38, 0]], np.float32),
            1,
            -1,
            sample_weight=np.array([1, 0, 0], np.float32),
        ),
        Form(batch=(3,), kind="dense", labels="float32"),
    ),
    "a negative label that is masked, and smoothed": (
        Call(
            np.array([[0, 1, -INF], [1, 2, 3]], np.float32),
            np.array([[0.75, 0.5, -1], [1, 0, 0]], np.float32),
            1,
            -1,
            class_weight=np.array([1, 2, 0.5], np.float32),
            label_smoothing=0.1,
            reduction="sum",
        ),
        Form(
            batch=(2,),
            kind="dense",
            labels="float32",
            class_weight="float32",
            label_smoothing=0.1,
            reduction="sum",
        ),
    ),
    "huge labels of weight 0, smoothed": (
        Call(
            np.array([[0, NAN], [0, 1]], np.float32),
            np.array([[2e38, 0], [2e38, 1e38]], np.float32),
            1,
            -1,
            sample_weight=np.zeros(2, np.float32),
            label_smoothing=0.5,
        ),
        Form(batch=(2,), classes=2, kind="dense", labels="float32", label_smoothing=0.5),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_stays_mended(backend, name):
    """Each fault of longer runs, in all libraries and under all transforms."""
    call, form = FOUND[name]
    wrt = [n for n in DIFFERENTIABLE if n in call.arrays and is_floating(call.arrays[n])]
    sample_weight = None if call.sample_weight is None else "float32"
    form = form._replace(sample_weight=sample_weight, wrt=tuple(wrt))
    (runner,) = choose([backend.name])
    for transform, how in runner.transforms.items():
        fitted = runner.fit(form, how)
        if fitted.batch != form.batch:
            continue  # what the transform takes no such batch of
        rng = np.random.default_rng(0)
        case = draw_case(rng, fitted, unit=how.is_unit, along=how.is_along)._replace(call=call)
        with runner.around(fitted):
            found, _ = examined(runner, transform, fitted, case)
        runner.finish()
        assert found == [], (transform, found)


def drawn(count: int) -> list[Case]:
    """Cases of double precision, of everything that is drawn."""
    cases = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        form = draw_form(rng, Runner.ability)
        wrt = [n for n in ("labels", "class_weight", "sample_weight") if getattr(form, n)]
        wrt = [n for n in wrt if getattr(form, n).startswith(("float", "bfloat"))]
        form = form._replace(dtype="float64", wrt=("logits", *wrt), size="usual", layout="plain")
        if np.prod(form.batch) * form.classes < 40:
            cases.append(draw_case(rng, form))
    return cases


CASES = drawn(300)


def test_the_oracle_agrees_with_the_reference():
    """Two sets of formulas, written apart, give the same losses and gradients."""
    for case in CASES:
        wide = case.call.but(normalizer_is_array=False)
        other = evaluate(wide)
        own = truth(wide, np.ones_like(case.upstream), {})
        if own.is_ill or not (np.isfinite(own.scale.losses).all()):
            continue
        np.testing.assert_allclose(other.loss, own.first.losses, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(other.gradient, own.first.x, rtol=1e-12, atol=1e-12)


@np.errstate(all="ignore")
def test_slopes_are_those_of_the_losses():
    """The closed forms of the oracle are the differences of its losses, twice over."""
    compared = 0
    for case in CASES:
        options, point, fate = oracle._read(case.call)
        along = oracle._along(case.call, point, case.direction)
        along = along._replace(t=np.where(fate.masked & (point.t == 0), 0, along.t))
        u = np.broadcast_to(case.upstream.reshape(-1, 1).astype(WIDE), (len(point.x), 1))
        known = truth(case.call, case.upstream, case.direction)
        flat = oracle._objective(options, point, fate, u)
        is_empty = case.call.reduction == "mean" and not np.any(known.scale.losses)
        sizes = known.scale + known.second_scale
        sizes += (np.where(fate.lives & ~fate.masked & (np.abs(point.x) > HUGE), np.inf, 0),)
        if is_empty or fate.poisons.any() or not all(np.isfinite(part).all() for part in sizes):
            continue
        sides = (1, -1)
        points = [Point(*(a + side * STEP * v for a, v in zip(point, along, strict=True)))
                  for side in sides]  # fmt: skip
        ends = [oracle._objective(options, each, fate, u) for each in points]
        change, *changes = ((a - b) / (2 * STEP) for a, b in zip(*ends, strict=True))
        factor = u if case.call.reduction == "none" else case.upstream
        slope = sum((a * v).sum() for a, v in zip(flat[1:], along, strict=True))
        size = 1 + sum(np.abs(part).max(initial=0) for part in (*known.second_scale,))
        np.testing.assert_allclose((factor * change).sum(), slope, atol=1e-8 * size)
        moved = Point(*(a + 1j * oracle.STEP * v for a, v in zip(point, along, strict=True)))
        exact = oracle._objective(options, moved, fate, u)
        for found, true in zip(changes, exact[1:], strict=True):
            np.testing.assert_allclose(found, true.imag / oracle.STEP, atol=1e-8 * size)
        compared += 1
    assert compared > len(CASES) / 4


class Lying(Runner):
    """NumPy with a wrong number in the gradient of examples of which some logit is not finite."""

    def run_with_grad(self, form: Form, call: Call) -> Run:
        """Loss and gradient."""
        run = super().run_with_grad(form, call)

        def lie(case: Case) -> Results:
            results = run(case)
            bad = ~np.isfinite(case.call.logits.astype(float))
            bad = bad.any(case.call.class_axis, keepdims=True)
            results["d logits"] = np.where(bad, 1e-30, results["d logits"])
            return results

        return lie


@pytest.fixture
def lies() -> list[Fault]:
    """What is found of a wrong number."""
    return list(Session(SEED, [Lying()]).run(300))


def test_a_wrong_number_is_found_and_made_small(lies, monkeypatch, capsys):
    """A fault comes down to a single example, and to code that shows it again."""
    lies = [fault for fault in lies if fault.difference.name == "d logits"]
    assert len(lies) > 10
    small = shrunk(Lying(), lies[0])
    assert small.case.call.logits.shape in {(1, 1), (1, 2), (1, 3)}
    code = report(small)
    monkeypatch.setattr("tests.fuzz.replay.runners", lambda: {"numpy": Lying()})
    exec(code, {})  # noqa: S102 (it was made to be run)
    assert capsys.readouterr().out.startswith(f"d logits: {small.difference.nature}")
    monkeypatch.undo()
    exec(code, {})  # noqa: S102
    assert "nothing is wrong" in capsys.readouterr().out


def test_the_same_seed_finds_the_same(lies):
    """A run can be had again."""
    again = list(Session(SEED, [Lying()]).run(300))
    assert [f.signature + f.origin for f in again] == [f.signature + f.origin for f in lies]


@pytest.mark.parametrize("classes", [1, 2])
def test_a_warning_without_a_reason_is_found(classes):
    """A false alarm is a fault, and a warning of what the call has is none."""
    rows = np.full((2, classes), classes - 1, np.int32)  # ids of one class, or several ones
    call = Call(np.zeros((2, classes), np.float32), rows, 1, -1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        cross_entropy(call.logits, call.labels)
    assert len(told) == 1
    assert false_alarms(call, told) == []
    other = call.but(logits=np.zeros((2, 3), np.float32), labels=np.eye(3, dtype=np.int32)[:2])
    assert [each.name for each in false_alarms(other, told)] == ["call"]
