"""R22 to R24 on eight devices: run by `test_jax_sharding`, in a process that has them."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.random import Generator

from tests.backends.test_jax_smallness import ROW, native
from tests.helpers.accuracy import assert_accurate
from tests.helpers.backends import BACKENDS
from tests.helpers.differentiation import hessian
from tests.helpers.problems import Problem, sample
from tests.helpers.reference import central_differences
from tests.helpers.totals import expected, options_of
from unified_loss import (
    BackendError,
    LabelError,
    RunningCrossEntropy,
    Totals,
    cross_entropy,
    cross_entropy_totals,
    cross_entropy_with_grad,
)

JAX = BACKENDS["jax"]
COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)[\w-]*\("
)
# How the rows and the classes of the logits are split.
LAYOUTS: dict[str, tuple[Any, Any]] = {
    "batch": (("rows", "classes"), None),
    "classes": (None, ("rows", "classes")),
    "both": ("rows", "classes"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"ignored": 3},
    "everything": {
        "ignored": 3,
        "class_weight": True,
        "sample_weight": "full",
        "label_smoothing": 0.25,
        "z_loss": 0.125,
    },
    "dense_everything": {
        "kind": "dense",
        "class_weight": True,
        "sample_weight": "full",
        "label_smoothing": 0.25,
        "z_loss": 0.125,
    },
    "none": {"reduction": "none", "sample_weight": "mask", "label_smoothing": 0.25},
}


@pytest.fixture(params=["Explicit", "Auto"])
def mesh(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Four by two devices; an explicit mesh is the default."""
    kinds = {} if request.param == "Explicit" else {"axis_types": (AxisType.Auto,) * 2}
    mesh = jax.make_mesh((4, 2), ("rows", "classes"), **kinds)
    assert {kind.name for kind in mesh.axis_types} == {request.param}
    with jax.set_mesh(mesh):
        yield mesh


def placed(problem: Problem, mesh: Any, rows: Any, classes: Any) -> dict[str, Any]:
    """The arrays of a problem, split over the mesh."""
    specs = {
        "logits": (rows, classes),
        "labels": (rows,) if problem.has_index_labels else (rows, classes),
        "class_weight": (classes,),
        "sample_weight": (rows,),
    }
    return {
        name: jax.device_put(values, NamedSharding(mesh, PartitionSpec(*specs[name])))
        for name, values in problem.arrays.items()
    }


def step_of(problem: Problem, function: Any) -> Callable[..., Any]:
    """Loss and gradient in the logits, by autodiff or in closed form."""

    def total(logits: Any, others: dict[str, Any]) -> Any:
        return cross_entropy(logits, **others, **problem.options).sum()

    def closed(logits: Any, others: dict[str, Any]) -> Any:
        loss, slope = cross_entropy_with_grad(logits, **others, **problem.options)
        return loss.sum(), slope

    return jax.value_and_grad(total) if function is cross_entropy else closed


def moved(text: str) -> list[int]:
    """How many numbers each collective of a program brings to a device."""
    return list(map(numbers_in, COLLECTIVE.findall(text)))


def numbers_in(result: str) -> int:
    """How many numbers a result of these shapes has."""
    shapes = re.findall(r"\[([\d,]*)\]", result)
    return sum(math.prod(map(int, filter(None, shape.split(",")))) for shape in shapes)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("layout", "function"),
    [*((layout, cross_entropy) for layout in LAYOUTS), ("both", cross_entropy_with_grad)],
)
def test_split_logits(layout: str, options: str, function: Any, mesh: Any, rng: Generator) -> None:
    """R22 to R24: any split gives the same numbers, and moves O(N) of them, never the logits."""
    rows, classes = 16, 80
    problem = sample(rng, batch=(rows,), classes=classes, **OPTIONS[options])
    arrays = placed(problem, mesh, *LAYOUTS[layout])
    logits = arrays.pop("logits")
    program = jax.jit(step_of(problem, function)).lower(logits, arrays).compile()
    assert all(numbers <= 6 * rows for numbers in moved(program.as_text()))
    loss, slope = program(logits, arrays)
    assert slope.sharding.is_equivalent_to(logits.sharding, 2)
    assert_accurate(slope, problem, "float32", "gradient")
    whole = problem if problem.reduction != "none" else problem.but(reduction="sum")
    assert_accurate(loss, whole, "float32")


@pytest.mark.parametrize("options", ["plain", "everything", "dense_everything"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_totals_of_split_logits(layout: str, options: str, mesh: Any, rng: Generator) -> None:
    """R35: any split gives the same sums, and moves O(N) numbers."""
    rows = 16
    problem = sample(rng, batch=(rows,), classes=80, **OPTIONS[options])
    arrays = placed(problem, mesh, *LAYOUTS[layout])

    def totals(arrays: dict[str, Any]) -> Totals:
        return cross_entropy_totals(**arrays, **options_of(problem))

    program = jax.jit(totals).lower(arrays).compile()
    assert all(numbers <= 10 * rows for numbers in moved(program.as_text()))
    np.testing.assert_allclose(list(map(float, program(arrays))), expected(problem), rtol=1e-5)
    running = RunningCrossEntropy()
    running.merge(program(arrays))
    assert running.compute().count == expected(problem).count


def test_totals_inside_shard_map(rng: Generator) -> None:
    """R34, R35: the sums of each device add up by `psum`; so do losses over one normalizer."""
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
    problem = sample(rng, batch=(16,), classes=5, ignored=3)

    def local(logits: Any, labels: Any) -> Any:
        totals = jax.lax.psum(cross_entropy_totals(logits, labels), "rows")
        loss = cross_entropy(logits, labels, normalizer=totals.mass)
        return totals, jax.lax.psum(loss, "rows")

    split, whole = PartitionSpec("rows"), PartitionSpec()
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(split, split), out_specs=whole)
    totals, loss = jax.jit(mapped)(problem.logits, problem.labels)
    np.testing.assert_allclose(list(map(float, totals)), expected(problem), rtol=1e-5)
    assert_accurate(np.asarray(loss), problem, "float32")


def test_unreduced_loss_stays_where_its_rows_are(mesh: Any, rng: Generator) -> None:
    """R21: an eager call with `reduction="none"` returns the losses split like the rows."""
    problem = sample(rng, batch=(16,), classes=80, reduction="none")
    arrays = placed(problem, mesh, "rows", "classes")
    loss = cross_entropy(**arrays, **problem.options)
    assert_accurate(loss, problem, "float32")
    assert len(loss.sharding.device_set) == 8
    assert loss.addressable_shards[0].data.shape == (4,)


def test_labels_on_several_devices_are_looked_at_each_time(mesh: Any, rng: Generator) -> None:
    """R17: an eager call that is like an earlier one names a wrong label as well."""
    problem = sample(rng, batch=(16,), classes=80)
    arrays = placed(problem, mesh, "rows", None)
    wrong = problem.but(labels=np.where(np.arange(16) == 3, 80, problem.labels).astype(np.int32))
    for _ in range(2):
        cross_entropy(**arrays, **problem.options)
        with pytest.raises(LabelError):
            cross_entropy(**placed(wrong, mesh, "rows", None), **problem.options)


# Collectives of the loss, and of its gradient in the logits. The rows ask for none, but a sum for
# one and a mean for its count; split classes ask for the maximum, and for sums, joined or not.
COLLECTIVES = {
    ("batch", "none"): (0, 0),
    ("batch", "sum"): (1, 0),
    ("batch", "mean"): (2, 1),
    ("classes", "none"): (4, 4),
    ("classes", "sum"): (4, 4),
    ("classes", "mean"): (4, 4),
    ("both", "none"): (4, 4),
    ("both", "sum"): (5, 4),
    ("both", "mean"): (6, 5),
}


@pytest.mark.parametrize("options", ["plain", "everything", "dense", "dense_everything"])
@pytest.mark.parametrize(("layout", "reduction"), COLLECTIVES)
def test_collectives_are_those_of_the_mathematics(
    layout: str, reduction: str, options: str, mesh: Any, rng: Generator
) -> None:
    """R24: rows that are split exchange nothing but what a reduction adds."""
    every = OPTIONS | {"dense": {"kind": "dense"}}
    problem = sample(rng, batch=(16,), classes=80, reduction=reduction, **every[options])
    arrays = placed(problem, mesh, *LAYOUTS[layout])
    logits = arrays.pop("logits")

    def loss(logits: Any, others: dict[str, Any]) -> Any:
        return cross_entropy(logits, **others, **problem.options)

    def slope(logits: Any, others: dict[str, Any]) -> Any:
        return jax.grad(lambda x: loss(x, others).sum())(logits)

    for function, bound in zip((loss, slope), COLLECTIVES[layout, reduction], strict=True):
        program = jax.jit(function).lower(logits, arrays).compile().as_text()
        # Whether a row of labels that a weight of 0 drops is garbage, all its classes tell.
        looks = options == "dense_everything" and layout != "batch"
        assert len(moved(program)) <= bound + looks


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_gradients_of_split_weights_and_labels(kind: Any, mesh: Any, rng: Generator) -> None:
    """R22: class weights, sample weights and dense labels get gradients, split as they are."""
    options = {"class_weight": True, "sample_weight": "full", "label_smoothing": 0.25}
    problem = sample(rng, kind, batch=(8,), classes=4, **options)
    names = ["class_weight", "sample_weight", *["labels"] * (kind == "dense")]
    for layout in ("batch", "both"):
        arrays = placed(problem, mesh, *LAYOUTS[layout])

        def loss(chosen: dict[str, Any], arrays: dict[str, Any] = arrays) -> Any:
            return cross_entropy(**arrays | chosen, **problem.options)

        slopes = jax.jit(jax.grad(loss))({name: arrays[name] for name in names})
        for name, slope in slopes.items():
            expected = central_differences(problem, name)
            np.testing.assert_allclose(slope, expected, rtol=2e-5, atol=1e-6)
            assert slope.sharding.is_equivalent_to(arrays[name].sharding, slope.ndim)


@pytest.mark.parametrize("class_axis", [1, 2])
def test_sequences(class_axis: int, mesh: Any, rng: Generator) -> None:
    """R23: rows of a sequence, split along batch and classes, whichever axis the classes have."""
    problem = sample(rng, batch=(8, 3), classes=6, class_axis=class_axis, sample_weight="first")
    names = ["rows", None, None]
    names[class_axis] = "classes"
    logits = jax.device_put(problem.logits, NamedSharding(mesh, PartitionSpec(*names)))
    labels = jax.device_put(problem.labels, NamedSharding(mesh, PartitionSpec("rows")))

    def loss(logits: Any, labels: Any) -> Any:
        return cross_entropy(logits, labels, axis=class_axis, sample_weight=problem.sample_weight)

    value, slope = jax.jit(jax.value_and_grad(loss))(logits, labels)
    assert_accurate(value, problem, "float32")
    assert_accurate(slope, problem, "float32", "gradient")


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_what_jax_combines_is_combined(kind: Any, mesh: Any, rng: Generator) -> None:
    """R2: host data, uncommitted and replicated arrays join split logits, and inversely."""
    options = {"class_weight": True, "sample_weight": "full", "label_smoothing": 0.25}
    problem = sample(rng, kind, batch=(8,), classes=6, normalizer=2.5, **options)
    everywhere = placed(problem, mesh, None, None)
    split = placed(problem, mesh, "rows", "classes")
    free = {name: jnp.asarray(values) for name, values in problem.arrays.items()}
    for logits, others in (
        (split, problem.arrays),
        (split, free),
        (split, everywhere),
        (everywhere, split),
        (free, split),
    ):
        arrays = others | {"logits": logits["logits"]}
        assert_accurate(cross_entropy(**arrays, **problem.options), problem, "float32")
        slope = jax.jit(step_of(problem, cross_entropy))(arrays.pop("logits"), arrays)[1]
        assert_accurate(slope, problem, "float32", "gradient")


def test_what_jax_refuses_is_refused(rng: Generator) -> None:
    """R2, R25: labels committed elsewhere, or split against the logits, are a `BackendError`."""
    problem = sample(rng, batch=(16,), classes=8)
    mesh = jax.make_mesh((4, 2), ("rows", "classes"))
    other = jax.make_mesh((8,), ("all",))
    logits, labels = problem.logits, problem.labels

    def put(values: Any, on: Any, *spec: Any) -> Any:
        return jax.device_put(values, NamedSharding(on, PartitionSpec(*spec)))

    split = put(logits, mesh, "rows", "classes")
    first, last = jax.devices()[0], jax.devices()[-1]
    for pair in (
        (jax.device_put(logits, first), jax.device_put(labels, last)),
        (split, jax.device_put(labels, first)),
        (jax.device_put(logits, first), put(labels, mesh, "rows")),
        (split, put(labels, other, "all")),
        (split, put(labels, mesh, "classes")),
    ):
        with pytest.raises(BackendError, match="labels cannot be combined with the logits"):
            cross_entropy(*pair)
        assert_accurate(cross_entropy(pair[0], np.asarray(pair[1])), problem, "float32")
    with pytest.raises(BackendError, match=r"int32\[16@classes\]"):
        jax.jit(cross_entropy)(split, put(labels, mesh, "classes"))
    with pytest.raises(BackendError, match="sample_weight cannot be combined"):
        cross_entropy(split, labels, sample_weight=put(np.ones(16), mesh, "classes"))


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("options", ["everything", "dense_everything"])
def test_shard_map_over_rows(options: str, *, check_vma: bool, mesh: Any, rng: Generator) -> None:
    """R23: inside `shard_map`, sums of the parts with one normalizer are the loss of the whole."""
    problem = sample(rng, batch=(8,), classes=6, normalizer=3.5, **OPTIONS[options])
    arrays = placed(problem, mesh, "rows", None)
    logits, weight = arrays.pop("logits"), arrays.pop("class_weight")
    rows = PartitionSpec("rows")

    def part(logits: Any, others: dict[str, Any], weight: Any) -> Any:
        loss = cross_entropy(logits, class_weight=weight, **others, **problem.options)
        return jax.lax.psum(loss, "rows")

    mapped = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(rows, dict.fromkeys(arrays, rows), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=check_vma,
    )
    assert_accurate(mapped(logits, arrays, weight), problem, "float32")
    loss, slope = jax.jit(jax.value_and_grad(mapped))(logits, arrays, weight)
    assert_accurate(loss, problem, "float32")
    assert_accurate(slope, problem, "float32", "gradient")


@pytest.mark.parametrize("name", ["labels", "class_weight", "sample_weight"])
def test_shard_map_over_one_operand(name: str, mesh: Any, rng: Generator) -> None:
    """R23: inside `shard_map`, one operand may differ between devices that share the others."""
    problem = sample(rng, batch=(8,), classes=6, **OPTIONS["dense_everything"])
    arrays = JAX.place(problem, "float32")
    rows = PartitionSpec("rows")
    copies = jax.device_put(jnp.stack([arrays.pop(name)] * 4), NamedSharding(mesh, rows))

    def part(own: Any, shared: dict[str, Any]) -> Any:
        return cross_entropy(**shared, **{name: own[0]}, **problem.options)[None]

    specs = rows, dict.fromkeys(arrays, PartitionSpec())
    losses = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=rows)(copies, arrays)
    for loss in np.asarray(losses):
        assert_accurate(loss, problem, "float32")


@pytest.mark.parametrize("spec", [(None, "rows"), (None, None, "classes"), ("rows", "classes")])
def test_vmap_beside_a_split_axis(spec: tuple[Any, ...], mesh: Any, rng: Generator) -> None:
    """R23: `vmap` over any axis of dense labels and logits that are split along any other."""
    problem = sample(rng, batch=(4, 4), classes=6, kind="dense", reduction="none")
    where = NamedSharding(mesh, PartitionSpec(*spec))
    pair = [
        jax.device_put(problem.arrays[x].astype("float32"), where) for x in ("logits", "labels")
    ]
    rows = jax.vmap(lambda *pair: cross_entropy(*pair, axis=-1, reduction="none"))
    assert_accurate(rows(*pair), problem, "float32")
    slope = jax.grad(lambda x, t: rows(x, t).sum())(*pair)
    assert_accurate(slope, problem, "float32", "gradient")


@pytest.mark.parametrize("weighted", [False, True])
def test_vmap_over_a_split_axis(*, weighted: bool, mesh: Any, rng: Generator) -> None:
    """R23: `vmap` over the axis that is split, with class weights that are not."""
    problem = sample(rng, batch=(8,), classes=6, ignored=2, reduction="none", class_weight=weighted)
    arrays = placed(problem, mesh, "rows", None)
    weight = problem.class_weight

    def row(logits: Any, label: Any) -> Any:
        return cross_entropy(logits, label, class_weight=weight, reduction="none")

    pair = arrays["logits"], arrays["labels"]
    for run in (jax.vmap(row), jax.jit(jax.vmap(row))):
        assert_accurate(run(*pair), problem, "float32")
    slopes = jax.jit(jax.vmap(jax.grad(row)))(*pair)
    assert_accurate(slopes, problem, "float32", "gradient")


def test_second_order_and_loops_on_a_mesh(mesh: Any, rng: Generator) -> None:
    """R22, R23: Hessian-vector products, `checkpoint` and `scan` of split logits."""
    problem = sample(rng, batch=(8,), classes=6, ignored=1)
    arrays = placed(problem, mesh, "rows", "classes")
    logits, labels = arrays["logits"], arrays["labels"]

    def loss(x: Any) -> Any:
        return cross_entropy(x, labels)

    def looped(x: Any) -> Any:
        return jax.lax.scan(lambda _, x: (None, loss(x)), None, x[None])[1].sum()

    for function in (jax.checkpoint(loss), looped):
        slope = jax.jit(jax.grad(function))(logits)
        assert_accurate(slope, problem, "float32", "gradient")
    product = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (x,))[1])(logits)
    expected = np.tensordot(hessian(problem), problem.logits.astype(float), 2)
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-6)


def test_program_on_a_mesh_is_as_small_as_the_native_one(mesh: Any) -> None:
    """R24: with the batch split as small as native, which cannot split the classes, as ours can."""
    logits, labels = np.zeros((512, 1024), np.float32), np.zeros(512, np.int32)

    def bytes_of(function: Any, rows: Any, classes: Any) -> int:
        arrays = (
            jax.device_put(logits, NamedSharding(mesh, PartitionSpec(rows, classes))),
            jax.device_put(labels, NamedSharding(mesh, PartitionSpec(rows))),
        )
        compiled = jax.jit(function).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    for wrap in (lambda f: f, jax.grad, jax.value_and_grad):
        bound = bytes_of(wrap(native), *LAYOUTS["batch"])
        assert bytes_of(wrap(cross_entropy), *LAYOUTS["batch"]) <= bound + ROW * 64
    step = jax.value_and_grad(cross_entropy)
    assert bytes_of(step, *LAYOUTS["classes"]) <= logits.nbytes / 8 + 8 * ROW * 512
