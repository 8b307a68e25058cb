"""PyTorch on the processor in blocks: the same numbers, whoever computes them, in no memory."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.helpers.accuracy import assert_accurate, assert_everything
from tests.helpers.plans import plan
from tests.helpers.problems import sample
from tests.helpers.torch_block_cases import cut_small
from tests.helpers.torch_cases import EVERYTHING, TORCH, loss_in
from tests.helpers.variants import KINDS, REDUCTIONS
from unified_loss import _threads as threads
from unified_loss import cross_entropy, cross_entropy_with_grad

torch = pytest.importorskip("torch")

from unified_loss._backends import _torch_blocks as blocks  # noqa: E402 (the same)

pytestmark = pytest.mark.usefixtures("torch_is_under_test")


@pytest.fixture
def set_threads():
    """`torch.set_num_threads`, for this test alone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


LAYOUTS = {
    "last": {"batch": (30,), "classes": 9},
    "first": {"batch": (30,), "classes": 9, "class_axis": 0},
    "many classes": {"batch": (5,), "classes": 70},
    "long rows": {"batch": (2,), "classes": 130},
    "images": {"batch": (3, 4, 5), "classes": 6, "class_axis": 1},
    "deep": {"batch": (2, 3, 2, 5), "classes": 4, "class_axis": -2},
    "wide": {"batch": (2, 70), "classes": 3, "class_axis": 1},
}
OPTIONS = {
    "plain": {},
    "ignored": {"ignored": 4},
    "mask": {"sample_weight": "mask"},
    "first axis": {"sample_weight": "first"},
    "smoothing": {"label_smoothing": 0.25},
    "all smoothing": {"label_smoothing": 1.0, "class_weight": True},
    "z-loss": {"z_loss": 0.5, "ignored": 2},
    "normalizer": {"normalizer": 7.0, "class_weight": True},
    "everything": EVERYTHING,
}


WALKS = {
    "little": ((64, 70), (64,), None, None),
    "some": ((2**15, 64), (2**15,), None, None),
    "more": ((2**15 + 1, 64), (2**15 + 1,), False, 1),
    "much": ((2**17, 64), (2**17,), False, 3),
    "little of few classes": ((2**14, 2), (2**14,), None, None),
    "few classes": ((2**15, 2), (2**15,), True, 1),
    "many of few classes": ((2**19, 2), (2**19,), True, 3),
    "few channels": ((2, 4, 2**14), (2, 2**14), None, None),
    "more channels": ((2, 4, 2**19), (2, 2**19), False, 1),
    "large channels": ((2, 4, 2**20), (2, 2**20), False, 3),
}


@pytest.mark.parametrize("case", WALKS)
def test_a_walk_fits_the_problem(set_threads, case):
    """R20, R21: at once, in blocks, in transposed blocks, or in as many threads as torch has."""
    logits, labels, transposed, number = WALKS[case]
    set_threads(3)
    walk = blocks.walk_for(plan(logits, labels), np.prod(logits))
    if number is None:
        assert walk is None
    else:
        assert (walk.transposed, walk.threads) == (transposed, number)


def test_bytes_decide_on_blocks():
    """R24: float64 is walked through from half as many logits on, and halves are float32."""
    labels = (2**16,)
    for dtype, classes in (("float64", 63), ("float32", 127), ("bfloat16", 127)):
        for more in (0, 1):
            logits = (2**16, classes + more)
            call = plan(logits, labels, f"{dtype} int64")
            walk = blocks.walk_for(call, np.prod(logits))
            assert (walk is blocks.IN_ONE_BLOCK) == (not more)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_routes_on_both_sides_of_a_threshold_are_accurate(monkeypatch, kind, option, rng):
    """R20: at once, recorded by autograd or not, and in blocks."""
    cut_small(monkeypatch)
    for class_axis in (1, 2):
        shape = {"batch": (9, 5), "classes": 8, "class_axis": class_axis}
        problem = sample(rng, kind, **shape, **OPTIONS[option])
        for at_once, kept in ((360, 1441), (359, 1441), (359, 1440)):
            monkeypatch.setattr(blocks, "AT_ONCE", at_once)
            monkeypatch.setattr(blocks, "KEPT", kept)
            assert_everything(TORCH, "eager", problem, "float32")


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_of_any_axis_are_accurate(small_blocks, layout, option, rng):
    """R3, R4, R20: loss, autograd's gradient and the closed one, for every kind of labels."""
    for kind in KINDS:
        problem = sample(rng, kind, **LAYOUTS[layout], **OPTIONS[option])
        assert_everything(TORCH, "eager", problem, "float32")


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("dtype", TORCH.floats)
def test_blocks_of_any_dtype_are_accurate(small_blocks, dtype, option, rng):
    """R14, R20: half precision is computed in float32, block by block, under every reduction."""
    settings = {"batch": (6, 3), "classes": 5, "class_axis": 1} | OPTIONS[option]
    for kind, reduction in itertools.product(KINDS, REDUCTIONS):
        problem = sample(rng, kind, **settings | {"reduction": reduction})
        if reduction != "mean":
            problem = problem.but(normalizer=None)
        assert_everything(TORCH, "eager", problem, dtype)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.repeat_interleave(2, 3)[..., ::2],
        lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
        lambda x: torch.cat([x, x])[3:7],
        torch.nn.Parameter,
    ],
    ids=["channels_last", "strided", "transposed", "offset", "parameter"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_any_layout_in_memory_is_accurate(small_blocks, view, kind, rng):
    """R20: logits, labels and weights in any strides."""
    problem = sample(rng, kind, batch=(4, 3, 4), classes=5, class_axis=1, **EVERYTHING)
    arrays = {name: value.double() for name, value in TORCH.place(problem, "float32").items()}
    arrays["logits"] = view(arrays["logits"]).detach().requires_grad_()
    if kind != "dense":
        arrays["labels"] = arrays["labels"].long()
    for name in ("labels", "sample_weight"):
        arrays[name] = arrays[name].transpose(0, -1).contiguous().transpose(0, -1)
    problem = problem.but(logits=arrays["logits"].detach().numpy())
    loss = cross_entropy(**arrays, **problem.options)
    loss.backward()
    assert_accurate(loss.detach().numpy(), problem, "float64")
    assert_accurate(arrays["logits"].grad.numpy(), problem, "float64", "gradient")


SPOILED = {
    "a masked class": ((slice(None), 2), -np.inf),
    "rows of nothing": (slice(3), [[-np.inf], [np.nan], [np.inf]]),
    "single logits": (([1, 2], [1, 0]), [np.inf, np.nan]),
}


@pytest.mark.parametrize("case", SPOILED)
@pytest.mark.parametrize("option", ["plain", "ignored", "mask", "smoothing", "z-loss"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_that_are_not_finite_are_computed_with_care(small_blocks, kind, option, case, rng):
    """R16, R18: masked classes cost nothing where no label is, NaN stays in the rows that count."""
    for reduction in REDUCTIONS:
        settings = OPTIONS[option] | {"reduction": reduction}
        problem = sample(rng, kind, batch=(30,), classes=9, **settings)
        place, values = SPOILED[case]
        problem.logits[place] = values
        if kind == "dense":  # no probability of a masked class, and rows that do not count
            problem.labels[:, 2] = 0
            problem.labels[[0, 20]] = 0
        assert_everything(TORCH, "eager", problem, "float32")


def test_labels_of_rows_that_are_dropped_may_be_anything(small_blocks, rng):
    """R16: dense labels of NaN and inf, where the sample weight is zero."""
    for weights in ("full", "mask"):
        problem = sample(rng, "dense", batch=(30,), classes=9, sample_weight=weights)
        problem.sample_weight[:2] = 0
        clean = problem.but(labels=problem.labels.copy())
        problem.labels[:2] = [[np.nan], [np.inf]]
        loss, *slopes = TORCH.closed_form(problem, "float32")
        assert_accurate(loss, clean, "float32")
        for slope in slopes + TORCH.gradients(problem, "float32"):
            assert_accurate(slope, clean, "float32", "gradient")


def test_labels_that_nobody_looks_at_poison_their_rows(small_blocks, rng):
    """R17: with ``check=False`` a class id out of range gives NaN, in its block and its row."""
    problem = sample(rng, batch=(30,), classes=9, sample_weight="mask", reduction="none")
    problem.labels[[3, 17]] = -1, 9
    problem.sample_weight[[3, 17]] = True
    assert_accurate(TORCH.loss(problem, "float32", check=False), problem, "float32")
    (slope,) = TORCH.gradients(problem, "float32", check=False)
    assert_accurate(slope, problem, "float32", "gradient")


NOTHING = {
    "ignored": ("index", {"ignored": 30}),
    "mask": ("index", {"sample_weight": "mask"}),
    "sample weights": ("dense", {"sample_weight": "full"}),
    "class weights": ("index", {"class_weight": True, "label_smoothing": 0.25, "z_loss": 0.5}),
    "empty rows": ("dense", {"z_loss": 0.5, "label_smoothing": 0.25}),
}


@pytest.mark.parametrize("logit", [1.5, np.nan, -np.inf, np.inf])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", NOTHING)
def test_nothing_to_average_is_exactly_zero(small_blocks, case, reduction, logit, rng):
    """R15, R16: where every example is dropped, the loss is +0 and its gradient 0."""
    kind, options = NOTHING[case]
    problem = sample(rng, kind, batch=(30,), classes=9, reduction=reduction, **options)
    for array in (problem.class_weight, problem.sample_weight):
        if array is not None:
            array[...] = 0
    if case == "empty rows":
        problem.labels[...] = 0
    problem.logits[...] = logit
    function, (logits,) = loss_in(problem, "logits")
    loss = function(logits.requires_grad_())
    loss.sum().backward()
    pair = cross_entropy_with_grad(**TORCH.place(problem, "float32"), **problem.options)
    for array in (loss, logits.grad, *pair):
        assert not array.any()
    assert not loss.signbit().any()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_cancel_leave_nothing_to_average(small_blocks, kind, rng):
    """R15: a total mass of 0 makes the mean and its gradient 0, though no example is dropped."""
    problem = sample(rng, kind, batch=(30,), classes=9, sample_weight="full", z_loss=0.5)
    problem.sample_weight[...] = np.resize([1, -1], 30)
    for logits in ([0.5], [np.nan], [-np.inf]):
        problem.logits[3] = logits
        loss, *slopes = TORCH.closed_form(problem, "float32")
        assert loss == TORCH.loss(problem, "float32") == 0
        for slope in slopes + TORCH.gradients(problem, "float32"):
            assert not slope.any()


def bits(problem):
    """Loss and gradient, by autograd and in closed form."""
    function, (logits,) = loss_in(problem, "logits")
    loss = function(logits.requires_grad_())
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    pair = cross_entropy_with_grad(**TORCH.place(problem, "float32"), **problem.options)
    return loss.detach(), slope, *pair


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads_gives_the_same_bits(small_blocks, set_threads, kind, reduction, rng):
    """R21: 1, 2 and 5 threads, twice each, and torch's own number of threads stays."""
    options = EVERYTHING | {"reduction": reduction, "normalizer": None}
    problem = sample(rng, kind, batch=(50, 4), classes=9, class_axis=1, **options)
    results = []
    for number in (1, 2, 5, 5, 2, 1):
        set_threads(number)
        results.append(bits(problem))
        assert torch.get_num_threads() == number
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("shape", [(3, 700_000), (29, 70_000), (105, 20_000)])
def test_any_number_of_threads_gives_a_loss_the_same_bits(set_threads, monkeypatch, shape, kind):
    """R21: also where an operation of torch is large enough for its threads to share it."""
    monkeypatch.setattr(blocks, "KEPT", 0)
    torch.manual_seed(0)
    logits = torch.randn(shape)
    labels = torch.arange(len(logits)) if kind == "index" else torch.softmax(-logits, 1)
    found = []
    for number in (1, 2, 3):
        set_threads(number)
        found.append(cross_entropy(logits, labels, label_smoothing=0.1, reduction="none"))
    assert all(torch.equal(one, found[0]) for one in found)


def test_threads_are_restored_after_an_error(small_blocks, set_threads, monkeypatch, rng):
    """R26: a block that fails leaves torch's threads and modes as they were."""
    problem = sample(rng, batch=(50,), classes=9)

    def fail(*arguments):
        raise RuntimeError("no memory")

    set_threads(3)
    with monkeypatch.context() as patch:
        patch.setattr(blocks.TorchBlockOps, "plain_statistics", fail)
        with pytest.raises(RuntimeError, match="no memory"):
            TORCH.loss(problem, "float32")
    assert torch.get_num_threads() == 3
    assert not torch.is_inference_mode_enabled()
    assert_everything(TORCH, "eager", problem, "float32")


def test_calls_from_many_threads_do_not_meet(small_blocks, set_threads, rng):
    """R21: eight threads that call at once get what each would get alone."""
    set_threads(3)
    problems = [sample(rng, "dense", batch=(50,), classes=9, **EVERYTHING) for _ in range(8)]
    alone = [bits(problem) for problem in problems]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(bits, problems * 3))
    for found, expected in zip(together, alone * 3, strict=True):
        assert all(map(torch.equal, found, expected))


SCRIPT = """
import os
import torch
from unified_loss import cross_entropy_with_grad

torch.set_num_threads(3)
logits, labels = torch.zeros(2**13, 1024), torch.zeros(2**13, dtype=torch.int64)

def is_right():
    loss, slope = cross_entropy_with_grad(logits, labels)
    # Few numbers, since torch's own threads do not survive.
    small = slope[::2**11].sum(0)
    return torch.isclose(loss, torch.tensor(1024.0).log()) and small[0] < 0 < small[1:].min()

assert is_right()
child = os.fork()
if child == 0:
    os._exit(not is_right())
assert os.waitpid(child, 0)[1] == 0
print(bool(is_right()), torch.get_num_threads())
"""


def test_threads_survive_a_fork():
    """R21: a forked child starts threads of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT],
        env=os.environ | {"OMP_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,  # to end a hang
    )
    assert done.stdout.split() == ["True", "3"], done.stderr


def peak(function):
    """The most bytes of tensors that were alive at once in a function, above those before it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        kept = function()
    del kept
    events = profile.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(itertools.accumulate(changes))


MEMORY = {
    "index": ("index", {}),
    "everything": ("index", EVERYTHING),
    "dense": ("dense", {}),
    "dense, everything": ("dense", EVERYTHING),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", MEMORY)
def test_memory_is_that_of_a_few_blocks(small_blocks, set_threads, case, dtype, rng):
    """R21, R24: a loss needs no array of the logits' size, a gradient none but itself."""
    kind, options = MEMORY[case]
    set_threads(1)  # the profiler does not see others
    problem = sample(rng, kind, batch=(80,), classes=500, **options)
    function, (logits,) = loss_in(problem, "logits", dtype=dtype)
    size = logits.nbytes
    assert peak(lambda: torch.exp(logits)) == size
    assert peak(lambda: function(logits)) < 0.5 * size
    loss = function(logits.requires_grad_())
    assert peak(lambda: function(logits)) < 0.5 * size
    assert size <= peak(lambda: torch.autograd.grad(loss, logits)) < 1.5 * size
    arrays = TORCH.place(problem, dtype)
    assert peak(lambda: cross_entropy_with_grad(**arrays, **problem.options)) < 1.5 * size


def unlinked(name):
    """An OpenMP library that is not there."""
    raise OSError(name)


class Deaf:
    """An OpenMP library that torch does not use."""

    def __init__(self, name):
        self.omp_set_num_threads = lambda number: None


@pytest.mark.parametrize("library", [unlinked, Deaf, lambda name: object()])
def test_builds_without_openmp_have_one_walk(small_blocks, set_threads, monkeypatch, library, rng):
    """R20, R21: where threads of our own cannot be kept apart from torch's, there are none."""
    set_threads(3)
    monkeypatch.setattr(blocks.ctypes, "CDLL", library)
    monkeypatch.setattr(blocks, "_set_threads", blocks._set_threads.__wrapped__)
    assert blocks._set_threads() is None
    monkeypatch.setattr(threads, "_pool", None)
    for kind in KINDS:
        problem = sample(rng, kind, batch=(50,), classes=9, **EVERYTHING)
        assert_everything(TORCH, "eager", problem, "float32")
