"""The fused kernels through Triton's interpreter: `test_fused` runs this file in such a process.

Tiles are cut small, so that a few logits cross every boundary.
"""

import itertools

import numpy as np
import pytest

from tests.helpers.accuracy import assert_accurate
from tests.helpers.problems import Problem, sample
from tests.helpers.torch_cases import EVERYTHING, TORCH, assert_differentiable_twice
from unified_loss import cross_entropy, cross_entropy_with_grad, explain

torch = pytest.importorskip("torch")
interpreter = pytest.importorskip("triton.runtime.interpreter")

from unified_loss._backends import _torch_fused as fused  # noqa: E402 (needs torch)
from unified_loss._backends import _torch_pair as pair  # noqa: E402 (needs torch)

SMALL = {"TILE": 8, "BESIDE": 4, "PROGRAMS": 4, "MERGED_ROWS": 2, "MERGED_COLS": 8}
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.25, "ignored": 1},
    "everything": EVERYTHING,
}


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of a few logits, and few programs that count as many."""
    for name, size in SMALL.items():
        monkeypatch.setattr(fused, name, size)
    fused.schedule_for.cache_clear()
    yield
    fused.schedule_for.cache_clear()


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels that were launched, and over how many programs."""
    found = []
    launch = fused.launch

    def watched(kernel, programs, *arguments, **constants):
        found.append((kernel.fn.__name__, programs))
        launch(kernel, programs, *arguments, **constants)

    monkeypatch.setattr(fused, "launch", watched)
    return found


class Traffic:
    """How many entries of a tensor the kernels read and wrote."""

    def __init__(self, monkeypatch):
        self.reads, self.writes = [], []
        builder = interpreter.interpreter_builder
        kinds = {"create_masked_load": self.reads, "create_masked_store": self.writes}
        for name, kept in kinds.items():
            monkeypatch.setattr(builder, name, self._watched(getattr(builder, name), kept))

    def _watched(self, function, kept):
        def watched(pointers, *arguments):
            mask = arguments[0] if kept is self.reads else arguments[1]
            kept.append(pointers.data[mask.data])
            return function(pointers, *arguments)

        return watched

    def of(self, tensor, kept):
        """The number of accesses to the entries of a contiguous tensor."""
        first = tensor.data_ptr()
        last = first + tensor.numel() * tensor.element_size()
        return sum(int(((place >= first) & (place < last)).sum()) for place in kept)


@pytest.fixture
def traffic(monkeypatch):
    """All that the kernels read and write."""
    return Traffic(monkeypatch)


@pytest.mark.parametrize("classes", [1, 7, 8, 9, 17])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.filterwarnings("ignore::unified_loss.SingleClassWarning")
def test_every_boundary_is_crossed(small_tiles, launches, kind, option, classes, rng):
    """R20: rows of less than a tile, a tile, several, and rows that several programs share."""
    rows = 9 if classes < SMALL["TILE"] else 3
    problem = sample(rng, kind, batch=(rows,), classes=classes, **OPTIONS[option])
    loss, slope = TORCH.closed_form(problem, "float32")
    assert_accurate(loss, problem, "float32")
    assert_accurate(slope, problem, "float32", "gradient")
    names = {name for name, _ in launches}
    assert names == {"statistics", "gradient"} | ({"merge"} if classes > SMALL["TILE"] else set())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("rows", "classes"), [(40, 4), (40, 16), (3, 32)])
@pytest.mark.parametrize("weighted", [False, True])
def test_masked_classes_cost_by_their_smoothed_labels(
    small_tiles, launches, traffic, weighted, rows, classes, signed, rng
):
    """R10, R18: in a tile, several, and parts of rows; read again where signs differ alone."""
    logits = rng.normal(size=(rows, classes)).astype(np.float32)
    logits[rng.random(logits.shape) < 2 / classes] = -np.inf
    labels = rng.integers(-1 if signed else 0, 3, logits.shape).astype(np.float32)
    weight = rng.integers(-1 if signed else 0, 3, classes).astype(np.float32)
    # Sums of 1, of which smoothing by 1 / 2 makes nothing of -1 / C; and a sum of 0.
    logits[:, 1], labels[:, 1] = -np.inf, -1.0 if signed else 1.0
    logits[:, 0], labels[:, 0], weight[0] = 0.0, classes - labels[:, 1:].sum(1), 1.0
    labels[0, 0] -= classes
    labels /= classes
    if rows > 3:
        logits[1], logits[2, 2] = -np.inf, np.nan
    problem = Problem(
        logits, labels, 1, -1, class_weight=weight if weighted else None, label_smoothing=0.5,
        reduction="none",
    )  # fmt: skip
    arrays = TORCH.place(problem, "float32")
    loss, slope = cross_entropy_with_grad(**arrays, **problem.options)
    assert len(launches) == (3 if rows == 3 else 2)
    again = traffic.of(arrays["logits"], traffic.reads) - 2 * logits.size
    assert 0 < again <= (rows - 1) * classes if signed else again == 0
    assert_accurate(TORCH.to_numpy(loss), problem, "float32")
    assert_accurate(TORCH.to_numpy(slope), problem, "float32", "gradient")


LAYOUTS = {
    "channels first": ((3, 5, 3, 3), 1, lambda x: x),
    "channels last": ((3, 5, 3, 3), 1, lambda x: x.to(memory_format=torch.channels_last)),
    "sliced classes": ((5, 9), 1, lambda x: torch.cat([x, x], 1)[:, :9]),
    "sliced rows": ((5, 9), 1, lambda x: x.repeat_interleave(2, 0)[::2]),
    "strided": ((3, 5, 2, 3), 1, lambda x: x.repeat_interleave(2, 3)[..., ::2]),
    "transposed": ((5, 9), 1, lambda x: x.t().contiguous().t()),
    "first axis": ((9, 5), 0, lambda x: x),
    "four axes of the batch": ((2, 3, 2, 2, 3), 2, lambda x: x.permute(4, 0, 3, 1, 2).contiguous()
                               .permute(1, 3, 4, 2, 0)),
    "six axes": ((2, 3, 2, 2, 3, 2), 2, lambda x: x.permute(4, 0, 5, 3, 1, 2).contiguous()
                 .permute(1, 4, 5, 3, 0, 2)),
    "expanded": ((5, 9), 1, lambda x: x[:1].expand(5, 9)),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_any_strides_are_read_where_they_are(small_tiles, layout, kind):
    """R3: loss and gradient are those of contiguous logits, whose layout the gradient shares."""
    shape, axis, view = LAYOUTS[layout]
    torch.manual_seed(0)
    x = view(torch.randn(shape, dtype=torch.float64))
    batch = shape[:axis] + shape[axis + 1 :]
    labels = torch.randint(0, shape[axis], batch)
    if kind == "dense":
        labels = view(torch.rand(shape))
    if layout == "expanded":
        x = x.clone() if kind == "dense" else x
    given = {"label_smoothing": 0.25, "axis": axis}
    loss, slope = cross_entropy_with_grad(x, labels, **given)
    wanted = torch.nn.functional.cross_entropy(
        x.movedim(axis, -1).reshape(-1, shape[axis]),
        labels.movedim(axis, -1).reshape(-1, shape[axis]).double() if kind == "dense"
        else labels.reshape(-1), label_smoothing=0.0 if kind == "dense" else 0.25,
    )  # fmt: skip
    if kind == "index":
        torch.testing.assert_close(loss, wanted)
    y = x.clone(memory_format=torch.contiguous_format).requires_grad_()
    again = cross_entropy(y, labels.clone(memory_format=torch.contiguous_format), **given)
    torch.testing.assert_close(loss, again.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(again, y)[0])


DENSE = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint64)


@pytest.mark.parametrize("dtype", DENSE)
def test_dense_labels_of_any_dtype_are_read(dtype):
    """R4: labels are cast as they are read."""
    x, labels = torch.randn(3, 5), torch.rand(3, 5).mul(2).to(dtype)
    wanted = cross_entropy_with_grad(x, labels.float(), reduction="sum")
    found = cross_entropy_with_grad(x, labels, reduction="sum")
    assert all(itertools.starmap(torch.equal, zip(found, wanted, strict=True)))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_class_ids_of_any_integer_dtype_are_read(dtype):
    """R6: ids are compared as they are; those out of range make their own row NaN alone."""
    x = torch.randn(4, 5)
    labels = torch.tensor([1, 120, 4, 0]).to(dtype)
    loss, slope = cross_entropy_with_grad(x, labels, check=False, reduction="none")
    assert loss.isnan().tolist() == [False, True, False, False]
    assert slope.isnan().all(1).tolist() == [False, True, False, False]
    assert not slope[[0, 2, 3]].isnan().any()


def test_every_logit_is_read_once_each_way(small_tiles, launches, traffic, rng):
    """One reading for the loss; one reading and one writing for the gradient, options or none."""
    for options, kind in itertools.product(OPTIONS.values(), ("index", "dense")):
        for shape, axis in (((2, 18), 1), ((2, 5, 6), 1)):
            batch = shape[:axis] + shape[axis + 1 :]
            given = {"batch": batch, "classes": shape[axis], "class_axis": axis}
            problem = sample(rng, kind, **given, **options | {"ignored": 0})
            arrays = TORCH.place(problem, "float32")
            x, labels = arrays["logits"].requires_grad_(), arrays["labels"]
            rows, size = x.numel() // shape[axis], x.numel()
            for kept in (launches, traffic.reads, traffic.writes):
                kept.clear()
            loss = cross_entropy(**arrays, **problem.options).sum()
            assert len(launches) <= 2
            picks = rows if kind == "index" else 0  # the logit of each label, by itself
            assert traffic.of(x, traffic.reads) == size + picks
            assert kind == "index" or traffic.of(labels, traffic.reads) == size
            assert sum(map(len, traffic.writes)) <= 12 * rows * 3  # a few numbers a row, or part
            for kept in (launches, traffic.reads, traffic.writes):
                kept.clear()
            (slope,) = torch.autograd.grad(loss, x)
            assert len(launches) == 1
            assert traffic.of(x, traffic.reads) == size
            assert kind == "index" or traffic.of(labels, traffic.reads) == size
            assert traffic.of(slope, traffic.writes) == sum(map(len, traffic.writes)) == size


def test_dropped_rows_are_not_read(traffic):
    """R16: whatever they hold, their loss and their gradient are 0."""
    x = torch.full((4, 6), torch.nan)
    x[0] = 0.0
    labels = torch.tensor([2, -100, -100, -100])
    loss, slope = cross_entropy_with_grad(x, labels)
    torch.testing.assert_close(loss, torch.tensor(6.0).log())
    assert torch.equal(slope[1:], torch.zeros(3, 6))
    assert traffic.of(x[1:].contiguous(), traffic.reads) == 0
    assert traffic.of(x, traffic.reads) == 6 + 1 + 6


def test_equal_calls_give_equal_bits(small_tiles):
    """R21: parts of rows are merged in one order."""
    x, labels = torch.randn(2, 40), torch.randint(0, 40, (2,))
    first, second = (cross_entropy_with_grad(x, labels, z_loss=0.5) for _ in range(2))
    assert all(itertools.starmap(torch.equal, zip(first, second, strict=True)))


def test_a_second_derivative_leaves_the_kernels():
    """R22: a backward that is differentiated, or batched, has the present way."""
    assert_differentiable_twice()


def test_nothing_is_kept_of_the_size_of_the_logits(launches):
    """What waits for the backward is the arguments, and a few numbers a row."""
    x = torch.randn(8, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        cross_entropy(x, torch.arange(8))
    assert all(part.numel() <= 8 for part in kept if part.data_ptr() != x.data_ptr())


def test_explain_names_the_kernels():
    """What serves a call is visible, and so is the little memory that it takes."""
    report = explain(torch.zeros(8, 1000), torch.zeros(8, dtype=torch.int64))
    assert report.kernel == "fused kernels (Triton)"
    assert report.extra_memory < 8 * 1000
    assert np.isfinite(cross_entropy(torch.zeros(8, 1000), torch.arange(8)).item())


def test_a_device_is_tried_once():
    """Whether Triton works is found out on a row of two logits, of which nothing remains."""
    assert pair.Kernels.refusal(fused.KERNELS, None) is None
    assert fused.KERNELS.refusal(None) is None


def test_labels_with_gradients_keep_their_way(launches):
    """R22: what else has a gradient goes through the row statistics."""
    labels = torch.rand(3, 5, requires_grad=True)
    cross_entropy(torch.randn(3, 5), labels).backward()
    assert labels.grad is not None
    assert not launches
