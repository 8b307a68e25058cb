"""R33 on eight devices, inside `shard_map`: run by `test_jax_sharding` beside the rest."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate
from tests.helpers.problems import Problem, sample
from unified_loss import (
    BackendError,
    OptionError,
    cross_entropy,
    cross_entropy_with_grad,
    explain,
)

Arrays = dict[str, Any]
ALL_REDUCE = re.compile(r"= (.*?) all-reduce(?:-start)?\(")
COLLECTIVE = re.compile(r" (?:all-gather|all-to-all|collective-permute|reduce-scatter)[\w-]*\(")
EVERYTHING = {
    "class_weight": True,
    "sample_weight": "full",
    "label_smoothing": 0.25,
    "z_loss": 0.125,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"ignored": 2},
    "everything": {"ignored": 2} | EVERYTHING,
    "dense": {"kind": "dense"},
    "dense_everything": {"kind": "dense", "normalizer": 3.5} | EVERYTHING,
    "weighted": {"class_weight": True, "reduction": "sum"},
    "smoothed": {"kind": "dense", "label_smoothing": 1.0, "reduction": "none"},
}


@pytest.fixture
def mesh() -> Any:
    """Four by two devices."""
    return jax.make_mesh((4, 2), ("rows", "classes"), axis_types=(AxisType.Auto,) * 2)


def specs_of(arrays: Arrays, names: Any) -> dict[str, Any]:
    """How the classes of each argument are split, and nothing else."""
    split = {"logits": (None, names), "class_weight": (names,)}
    if np.ndim(arrays["labels"]) == 2:
        split["labels"] = (None, names)
    return {name: PartitionSpec(*split.get(name, ())) for name in arrays}


def split_loss(
    problem: Problem, mesh: Any, names: Any = "classes", *, check_vma: bool = True
) -> Callable[[Arrays], Any]:
    """The loss of a problem whose classes are split over axes of a mesh."""

    def part(arrays: Arrays) -> Any:
        return cross_entropy(**arrays, **problem.options, class_group=names)

    return jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(specs_of(problem.arrays, names),),
        out_specs=PartitionSpec(),
        check_vma=check_vma,
    )


def step_of(loss: Callable[[Arrays], Any]) -> Callable[[Arrays, Arrays], Any]:
    """The loss, and gradients of a sum of losses in the first arguments."""

    def total(trained: Arrays, others: Arrays) -> Any:
        losses = loss(trained | others)
        return (losses * jnp.arange(1.0, losses.size + 1).reshape(losses.shape)).sum(), losses

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def parted(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Floating arrays, and others."""
    trained = {name: jnp.asarray(a) for name, a in arrays.items() if a.dtype.kind == "f"}
    return trained, {name: a for name, a in arrays.items() if name not in trained}


def whole_loss(problem: Problem) -> Callable[[Arrays], Any]:
    """The loss of a problem."""
    return lambda arrays: cross_entropy(**arrays, **problem.options)


@pytest.mark.parametrize(
    ("case", "names"),
    [*((case, "classes") for case in CASES), ("dense_everything", ("rows", "classes"))],
)
def test_loss_and_gradients_are_those_of_the_whole(
    case: str, names: Any, mesh: Any, rng: Generator
) -> None:
    """R33: in logits, both weights and dense labels; NaN, masked classes and wrong ids included."""
    problem = sample(rng, batch=(9,), classes=8, **CASES[case])
    logits, labels = problem.logits.copy(), problem.labels.copy()
    logits[0, 3], logits[4, 6], logits[5, 0], logits[6] = np.nan, -np.inf, np.nan, -np.inf
    weight = problem.sample_weight
    if problem.has_index_labels:
        labels[7] = 8
    elif weight is not None:
        weight = weight.copy()
        weight[:2], labels[1, 2] = 0, np.nan
    problem = problem.but(logits=logits, labels=labels, sample_weight=weight)
    steps = [step_of(each) for each in (split_loss(problem, mesh, names), whole_loss(problem))]
    found, truth = (jax.tree.leaves(step(*parted(problem.arrays))) for step in steps)
    for one, other in zip(found, truth, strict=True):
        np.testing.assert_allclose(one, other, 2e-5, 1e-6)


@pytest.mark.parametrize("case", ["plain", "everything", "dense_everything"])
def test_collectives(case: str, mesh: Any, rng: Generator) -> None:
    """R33: forward two all-reduces of at most 6 numbers a row; backward none."""
    problem = sample(rng, batch=(16,), classes=8, **CASES[case])
    trained, others = parted(problem.arrays)
    loss = split_loss(problem, mesh)
    slope = jax.grad(lambda x: loss(trained | others | {"logits": x}).sum())
    for function, argument in ((loss, trained | others), (slope, trained["logits"])):
        program = jax.jit(function).lower(argument).compile().as_text()
        moved = [
            sum(int(np.prod([int(n) for n in size.split(",") if n])) for size in sizes)
            for sizes in (re.findall(r"\[([\d,]*)\]", each) for each in ALL_REDUCE.findall(program))
        ]
        assert len(moved) == 2
        assert sum(moved) <= 6 * 16 + 2
        assert not COLLECTIVE.search(program) or function is slope


def test_value_without_types_that_vary(mesh: Any, rng: Generator) -> None:
    """R33: without `check_vma`, differentiated from outside; and the closed form inside."""
    problem = sample(rng, batch=(4,), classes=8, ignored=1, **EVERYTHING)
    loss = split_loss(problem, mesh, check_vma=False)
    trained, others = parted(problem.arrays)
    (_, value), slopes = step_of(loss)(trained, others)
    assert_accurate(value, problem, "float32")
    assert_accurate(slopes["logits"], problem, "float32", "gradient")

    def closed(arrays: Arrays) -> Any:
        return cross_entropy_with_grad(**arrays, **problem.options, class_group="classes")

    specs = specs_of(problem.arrays, "classes")
    mapped = jax.shard_map(
        closed,
        mesh=mesh,
        in_specs=(specs,),
        out_specs=(PartitionSpec(), PartitionSpec(None, "classes")),
    )
    value, slope = jax.jit(mapped)(problem.arrays)
    assert_accurate(value, problem, "float32")
    assert_accurate(slope, problem, "float32", "gradient")


def test_rows_and_classes(mesh: Any, rng: Generator) -> None:
    """R33, R34: rows over another axis are parts over one normalizer, in bfloat16 too."""
    problem = sample(rng, batch=(8,), classes=6, ignored=1)
    split, rows = PartitionSpec("rows", "classes"), PartitionSpec("rows")

    def part(logits: Any, labels: Any) -> Any:
        loss = cross_entropy(logits, labels, normalizer=7, class_group="classes")
        return jax.lax.psum(loss, "rows")

    mapped = jax.shard_map(part, mesh=mesh, in_specs=(split, rows), out_specs=PartitionSpec())
    for dtype in ("float32", "bfloat16"):
        logits = jnp.asarray(problem.logits, dtype)
        loss, slope = jax.jit(jax.value_and_grad(mapped))(logits, problem.labels)
        assert (loss.dtype, slope.dtype) == (jnp.float32, logits.dtype)
        assert_accurate(loss, problem, dtype)
        assert_accurate(slope.astype("float32"), problem, dtype, "gradient")


def test_derivatives(mesh: Any, rng: Generator) -> None:
    """R22, R33: a derivative forward, one of a gradient, and `vmap`."""
    problem = sample(rng, batch=(4,), classes=8, **EVERYTHING)
    losses = [split_loss(problem, mesh), whole_loss(problem)]
    arrays, x = problem.arrays, jnp.asarray(problem.logits)
    found, truth = (
        jax.jit(lambda x, f=f: jax.jvp(jax.grad(lambda x: f(arrays | {"logits": x})), (x,), (x,)))(
            x
        )
        for f in losses
    )
    np.testing.assert_allclose(found[1], truth[1], 1e-4, 1e-5)
    stack = jnp.stack([x, 2 * x])
    found, truth = (
        jax.jit(jax.vmap(lambda x, f=f: f(arrays | {"logits": x})))(stack) for f in losses
    )
    np.testing.assert_allclose(found, truth, 1e-5)


def test_mistakes(mesh: Any) -> None:
    """R33: names that are none, or of no axis here; logits that are whole on each member."""
    logits, labels = jnp.zeros((4, 8)), jnp.zeros(4, int)
    with pytest.raises(OptionError, match="none of this name here"):
        cross_entropy(logits, labels, class_group="classes")

    def mapped(group: Any, logits_spec: Any) -> Any:
        def part(logits: Any, labels: Any) -> Any:
            assert "split classes" in str(explain(logits, labels, class_group="rows").kernel)
            return cross_entropy(logits, labels, class_group=group)

        whole = PartitionSpec()
        return jax.shard_map(part, mesh=mesh, in_specs=(logits_spec, whole), out_specs=whole)

    split = PartitionSpec(None, "classes")
    for group in ("columns", ("classes", "columns")):
        with pytest.raises(OptionError, match="'columns'"):
            mapped(group, split)(logits, labels)
    for group in (2, (), ("classes", "classes"), ("classes", None)):
        with pytest.raises(OptionError, match="class_group must be the name of a mesh axis"):
            mapped(group, split)(logits, labels)
    for group, same in (("rows", "'rows'"), (("rows", "classes"), "'rows'")):
        with pytest.raises(BackendError, match=f"along {same} all hold the same"):
            mapped(group, split)(logits, labels)
