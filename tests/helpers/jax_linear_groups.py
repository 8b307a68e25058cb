"""R33 of the linear form on eight devices, inside `shard_map`: run by `test_jax_sharding`."""

import re
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.random import Generator

from tests.helpers.jax_groups import ALL_REDUCE, COLLECTIVE, parted, step_of
from tests.helpers.jax_on_eight_devices import moved, numbers_in
from tests.linear.cases import EVERYTHING, HEAD, Linear, linear
from unified_loss import (
    BackendError,
    OptionError,
    explain,
    linear_cross_entropy,
    linear_cross_entropy_totals,
    linear_cross_entropy_with_grad,
)
from unified_loss._linear import _walks as walks

Arrays = dict[str, Any]
TOTALS = ("ignore_index", "label_smoothing", "z_loss", "softcap")
CASES: dict[str, dict[str, Any]] = {
    "plain": {"ignored": 2},
    "everything": {"ignored": 2} | EVERYTHING,
    "dense_everything": {"kind": "dense", "normalizer": 3.5} | EVERYTHING,
    "smoothed": {"kind": "dense", "label_smoothing": 1.0, "reduction": "none"},
}


@pytest.fixture
def mesh() -> Any:
    """Four by two devices."""
    return jax.make_mesh((4, 2), ("rows", "classes"), axis_types=(AxisType.Auto,) * 2)


@pytest.fixture
def small_blocks() -> Iterator[None]:
    """Parts of several blocks, one of which is padded."""
    with mock.patch.multiple(walks, TWO_STEPS=0, TILE=27, CLASSES_AT_LEAST=1):
        yield


def split(function: Any, case: Linear, mesh: Any, names: Any, **how: Any) -> Callable[..., Any]:
    """A call of a case whose classes are split over axes of a mesh."""
    out = how.pop("out_specs", PartitionSpec())

    def part(arrays: Arrays) -> Any:
        return function(**arrays, **case.options, class_group=names)

    return jax.shard_map(
        part, mesh=mesh, in_specs=(specs_of(case.arrays, names),), out_specs=out, **how
    )


def specs_of(arrays: Arrays, names: Any) -> dict[str, Any]:
    """How the classes of each argument are split, and nothing else."""
    of_classes = {"weight": (names,), "bias": (names,), "class_weight": (names,)}
    if np.ndim(arrays["labels"]) == 2:
        of_classes["labels"] = (None, names)
    return {name: PartitionSpec(*of_classes.get(name, ())) for name in arrays}


def whole_loss(case: Linear) -> Callable[[Arrays], Any]:
    """The loss of a case."""
    return lambda arrays: linear_cross_entropy(**arrays, **case.options)


def difficult(case: Linear) -> Linear:
    """Hidden states that are NaN where rows are dropped or not, and a class that is masked."""
    hidden, labels = case.hidden.copy(), case.problem.labels.copy()
    hidden[0, 1], hidden[5, 0] = np.nan, np.nan
    weight = case.problem.sample_weight
    if case.problem.has_index_labels:
        labels[7] = 8
    elif weight is not None:
        weight = weight.copy()
        weight[:2], labels[1, 2] = 0, np.nan
    return case.but(hidden=hidden, labels=labels, sample_weight=weight)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("everything", "classes"),
        ("dense_everything", ("rows", "classes")),
    ],
)
def test_loss_and_gradients_are_those_of_the_whole(
    name: str, names: Any, mesh: Any, rng: Generator
) -> None:
    """R33: in hidden, weight, bias, weights and dense labels; NaN and wrong ids included."""
    case = linear(rng, batch=(9,), classes=16, **CASES[name])
    steps = [step_of(split(linear_cross_entropy, case, mesh, names)), step_of(whole_loss(case))]
    for each in (case, difficult(case)):
        ((_, found), ours), ((_, truth), wanted) = (step(*parted(each.arrays)) for step in steps)
        np.testing.assert_allclose(found, truth, 2e-5)
        for part, slope in ours.items():
            np.testing.assert_allclose(slope, wanted[part], 2e-5, 2e-6, err_msg=part)


@pytest.mark.parametrize("name", ["everything", "dense_everything"])
def test_collectives(name: str, mesh: Any, rng: Generator) -> None:
    """R33: forward two all-reduces of at most 6 numbers a row; backward hidden's gradient once."""
    case = linear(rng, batch=(9,), classes=16, **CASES[name])
    trained, others = parted(case.arrays)
    loss = split(linear_cross_entropy, case, mesh, "classes")
    head = {name: trained[name] for name in HEAD[:2]}
    programs = ((None, []), (("weight",), []), (HEAD[:2], [case.hidden.size]))
    for of, more in programs if name == "everything" else programs[2:]:
        chosen = {name: head[name] for name in of or HEAD[:2]}

        def total(chosen: Arrays) -> Any:
            return loss(trained | others | chosen).sum()

        function = total if of is None else jax.grad(total)
        program = jax.jit(function).lower(chosen).compile().as_text()
        sums = list(map(numbers_in, ALL_REDUCE.findall(program)))
        assert len(sums) == 2 + len(more)
        assert sum(sums) <= 6 * 9 + 2 + sum(more)
        assert not COLLECTIVE.search(program)


@pytest.mark.parametrize("check_vma", [True, False])
def test_closed_form(check_vma: bool, mesh: Any, rng: Generator) -> None:  # noqa: FBT001
    """R31, R33: right inside `shard_map`, with types that vary and without."""
    for name in ("dense_everything", "smoothed")[check_vma:]:
        case = linear(rng, batch=(9,), classes=16, **CASES[name])
        specs = specs_of({"bias": 0} | case.arrays, "classes")
        out = (
            PartitionSpec(),
            tuple(specs[part] if part in case.arrays else PartitionSpec() for part in HEAD),
        )
        call = split(
            lambda **given: _as_tuples(linear_cross_entropy_with_grad(**given)),
            case, mesh, "classes", out_specs=out, check_vma=check_vma,
        )  # fmt: skip
        found = jax.jit(call)(case.arrays)
        truth = _as_tuples(linear_cross_entropy_with_grad(**case.arrays, **case.options))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
            np.testing.assert_allclose(one, other, 2e-5, 2e-6)
    if check_vma:
        return
    # The gradient of the loss from outside, without types that vary.
    loss = split(linear_cross_entropy, case, mesh, "classes", check_vma=check_vma)
    _, slopes = step_of(loss)(*parted(case.arrays))
    _, wanted = step_of(whole_loss(case))(*parted(case.arrays))
    for name, slope in slopes.items():
        np.testing.assert_allclose(slope, wanted[name], 2e-5, 2e-6)


def _as_tuples(found: Any) -> Any:
    loss, gradients = found
    return loss, tuple(gradients)


def test_rows_and_padded_classes(mesh: Any, rng: Generator) -> None:
    """R18, R33, R34: rows over another axis; a member of classes that are none; bfloat16."""
    case = linear(rng, batch=(8,), classes=8, bias=True, ignored=1)
    bias = case.bias.copy()
    labels = case.problem.labels % 4
    labels[0] = -100
    bias[4:] = -np.inf
    case = case.but(bias=bias, labels=labels)
    rows, classes = PartitionSpec("rows"), PartitionSpec("classes")

    def part(hidden: Any, weight: Any, bias: Any, labels: Any) -> Any:
        loss = linear_cross_entropy(
            hidden, weight, labels, bias=bias, normalizer=7, class_group="classes"
        )
        return jax.lax.psum(loss, "rows")

    specs = (rows, classes, classes, rows)
    mapped = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    for dtype, bound in (("float32", 1e-5), ("bfloat16", 1e-2)):
        hidden = jnp.asarray(case.hidden, dtype)
        arguments = hidden, case.weight, case.bias, case.problem.labels
        loss, slopes = jax.jit(jax.value_and_grad(mapped, (0, 1, 2)))(*arguments)
        assert (loss.dtype, slopes[0].dtype) == (jnp.float32, hidden.dtype)
        value, wanted = linear_cross_entropy_with_grad(**case.arrays, **case.options)
        np.testing.assert_allclose(loss, value, 1e-6)
        for slope, one in zip(slopes, wanted, strict=True):
            np.testing.assert_allclose(slope.astype("float32"), one, bound, bound / 10)


def test_derivatives(mesh: Any, rng: Generator) -> None:
    """R22, R33: a derivative forward, and one of a gradient."""
    case = linear(rng, batch=(4,), classes=8, softcap=2.0, label_smoothing=0.25, bias=True)
    arrays = {name: jnp.asarray(one) for name, one in case.arrays.items()}
    head = {name: arrays[name] for name in HEAD}
    found, truth = (
        jax.jit(lambda head, f=f: jax.jvp(jax.grad(lambda h: f(arrays | h)), (head,), (head,)))(
            head
        )
        for f in (split(linear_cross_entropy, case, mesh, "classes"), whole_loss(case))
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        np.testing.assert_allclose(one, other, 1e-4, 1e-5)


LAYOUTS: dict[str, tuple[Any, Any]] = {  # how rows and classes are split, without a group
    "rows": (("rows", "classes"), None),
    "classes": (None, ("rows", "classes")),
    "both": ("rows", "classes"),
}


@mock.patch.multiple(walks, TWO_STEPS=0, TILE=128, CLASSES_AT_LEAST=1)  # 4 blocks of 8 classes
@pytest.mark.parametrize(
    ("layout", "name"),
    [("rows", "plain"), ("classes", "plain"), ("both", "dense_everything")],
)
def test_totals_of_split_arrays(layout: str, name: str, mesh: Any, rng: Generator) -> None:
    """R33, R35: totals of the linear form are those of the whole, and O(N) numbers move."""
    options = {key: one for key, one in CASES[name].items() if key != "normalizer"}
    case = linear(rng, batch=(16,), classes=32, features=24, **options)
    rows, classes = LAYOUTS[layout]
    of_rows, of_classes = PartitionSpec(rows), PartitionSpec(classes)
    dense = PartitionSpec(rows, classes)
    specs = dict.fromkeys(case.arrays, of_classes) | {
        "hidden": of_rows,
        "sample_weight": of_rows,
        "labels": of_rows if case.problem.has_index_labels else dense,
    }
    arrays = {
        key: jax.device_put(one, NamedSharding(mesh, specs[key]))
        for key, one in case.arrays.items()
    }
    given = {key: one for key, one in case.options.items() if key in TOTALS}
    program = jax.jit(lambda arrays: linear_cross_entropy_totals(**arrays, **given)).lower(arrays)
    compiled = program.compile()
    assert all(numbers <= 12 * 16 for numbers in moved(compiled.as_text()))
    truth = linear_cross_entropy_totals(**case.arrays, **given)
    np.testing.assert_allclose(list(map(float, compiled(arrays))), list(map(float, truth)), 2e-5)


@pytest.mark.parametrize("few", [True, False])
def test_fully_sharded_parameters(few: bool, rng: Generator) -> None:  # noqa: FBT001
    """R33: rows and weight over one axis of an explicit mesh: blocks of the weight are gathered."""
    mesh = jax.make_mesh((8,), ("all",))
    case = linear(rng, batch=(64,), classes=32, features=8, bias=True, class_weight=True)
    truth = linear_cross_entropy_with_grad(**case.arrays, **case.options)
    rows, features = PartitionSpec("all"), PartitionSpec(None, "all")
    sizes = {} if few else {"TWO_STEPS": 0, "TILE": 8 * 64, "CLASSES_AT_LEAST": 1}
    for of_hidden, of_weight in ((rows, rows), (rows, features), (features, features)):
        specs = {"hidden": of_hidden, "weight": of_weight, "class_weight": rows, "bias": rows}
        labels = rows if of_hidden is rows else PartitionSpec()
        arrays = {
            name: jax.device_put(one, NamedSharding(mesh, specs.get(name, labels)))
            for name, one in case.arrays.items()
        }

        def loss(head: Arrays, arrays: Arrays = arrays) -> Any:
            return linear_cross_entropy(**arrays | head, **case.options)

        head = {name: arrays[name] for name in HEAD}
        with jax.set_mesh(mesh), mock.patch.multiple(walks, **sizes or {"TILE": walks.TILE}):
            program = jax.jit(jax.value_and_grad(loss)).lower(head).compile()
        value, slopes = program(head)
        np.testing.assert_allclose(value, truth[0], 1e-5)
        for name, wanted in zip(HEAD, truth[1], strict=True):
            np.testing.assert_allclose(slopes[name], wanted, 1e-4, 1e-5)
            assert slopes[name].sharding.is_equivalent_to(head[name].sharding, wanted.ndim)
        gathered = re.findall(r"= (.*?) all-gather", program.as_text())
        if not few and of_hidden is rows:
            assert all(numbers_in(one) <= 8 * 8 for one in gathered), gathered  # a block


@pytest.mark.parametrize("few", [True, False])
def test_explicit_label_rows(few: bool, rng: Generator) -> None:  # noqa: FBT001
    """R33: of an explicit mesh, beside classes that are split, and weights that are not."""
    mesh = jax.make_mesh((4, 2), ("rows", "classes"))
    case = linear(rng, "dense", batch=(8,), classes=8, bias=True, sample_weight="full")
    truth = linear_cross_entropy(**case.arrays, **case.options)
    rows, classes = PartitionSpec("rows"), PartitionSpec("classes")
    specs = {"hidden": rows, "weight": classes, "bias": classes, "labels": rows}
    sizes = {} if few else {"TWO_STEPS": 0, "TILE": 8 * 8, "CLASSES_AT_LEAST": 1}
    arrays = {
        name: jax.device_put(one, NamedSharding(mesh, specs.get(name, PartitionSpec())))
        for name, one in case.arrays.items()
    }
    with jax.set_mesh(mesh), mock.patch.multiple(walks, **sizes or {"TILE": walks.TILE}):
        found = jax.jit(lambda arrays: linear_cross_entropy(**arrays, **case.options))(arrays)
    np.testing.assert_allclose(found, truth, 1e-5)


def test_mistakes(mesh: Any) -> None:
    """R33: names of no axis here; a weight that is whole on each member."""
    hidden, weight, labels = jnp.zeros((4, 3)), jnp.zeros((8, 3)), jnp.zeros(4, int)
    with pytest.raises(OptionError, match="none of this name here"):
        linear_cross_entropy(hidden, weight, labels, class_group="classes")

    def mapped(group: Any, spec: Any) -> Any:
        def part(hidden: Any, weight: Any, labels: Any) -> Any:
            report = explain(hidden, labels, weight=weight, class_group="rows")
            assert report.kernel == "by classes"
            return linear_cross_entropy(hidden, weight, labels, class_group=group)

        whole = PartitionSpec()
        return jax.shard_map(part, mesh=mesh, in_specs=(whole, spec, whole), out_specs=whole)

    with pytest.raises(OptionError, match="'columns'"):
        mapped("columns", PartitionSpec("classes"))(hidden, weight, labels)
    with pytest.raises(BackendError, match=r"weight must hold .* along 'rows' all hold the same"):
        mapped(("rows", "classes"), PartitionSpec("classes"))(hidden, weight, labels)
