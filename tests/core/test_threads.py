"""Threads that share blocks: all are done on return, whatever fails, and nothing is left behind."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.helpers.backends import BACKENDS
from unified_loss import _blocks, cross_entropy_with_grad
from unified_loss import _threads as threads

HELPERS = 5


@pytest.fixture(autouse=True)
def _no_helpers() -> Iterator[None]:
    """Start without helpers, and leave none that a test has meddled with."""
    threads._pool.cache_clear()
    yield
    threads._pool.cache_clear()


def fail_from(number: int, monkeypatch: pytest.MonkeyPatch, error: Any = RuntimeError) -> None:
    """Let only so many threads start."""
    start, started = threads.start_new_thread, []

    def limited(*arguments: Any) -> int:
        if len(started) >= number:
            raise error("can't start new thread")
        started.append(start(*arguments))
        return started[-1]

    monkeypatch.setattr(threads, "start_new_thread", limited)


def is_helping() -> bool:
    """Whether this is a helper."""
    return threading.current_thread() is not threading.main_thread()


def plainly(share: Callable[[], None]) -> None:
    """Around nothing."""
    share()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
@pytest.mark.parametrize("number", range(HELPERS + 1))
def test_every_item_is_done_on_return(number, error, monkeypatch):
    """R21: helpers that did start are waited for, at whichever position one did not."""
    fail_from(number, monkeypatch, error)
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.03 if is_helping() else 0.003)
        done.append(item)

    for _ in range(3):
        done.clear()
        threads.for_each(work, range(30), threads=HELPERS + 1, around=plainly)
        assert sorted(done) == list(range(30))


@pytest.mark.parametrize("number", range(1, HELPERS + 1))
def test_the_error_of_a_helper_is_raised(number, monkeypatch):
    """R26: though another one could not be started; items that have not begun are left."""
    fail_from(number, monkeypatch)
    failed = threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        if is_helping():
            failed.set()
            raise ValueError(item)
        assert failed.wait(timeout=600)
        done.append(item)
        time.sleep(0.01)

    with pytest.raises(ValueError, match=r"^\d+$"):
        threads.for_each(work, range(1000), threads=HELPERS + 1, around=plainly)
    assert len(done) < 1000


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["start", "work"])
def test_nothing_goes_on_after_an_error(where, error, monkeypatch):
    """R26: what this thread raises ends the call when helpers have let go of their items."""
    if where == "start":
        fail_from(2, monkeypatch, error)
    helping = threading.Event()
    working: set[int] = set()

    def work(item: int) -> None:
        if not is_helping():
            assert helping.wait(timeout=600)
            raise error
        working.add(item)
        helping.set()
        time.sleep(0.05)
        working.remove(item)

    with pytest.raises(error):
        threads.for_each(work, range(1000), threads=HELPERS + 1, around=plainly)
    assert not working


def test_helpers_that_come_too_late_do_nothing():
    """R21: helpers that others keep busy hold nobody up.

    They do not even enter what the work is done in: where the interpreter ends, a thread that is in
    an operation of torch takes the process with it.
    """
    release, over = threading.Event(), threading.Event()
    pool = threads._pool()
    assert pool.grow(1) == 1
    pool.shares.put(release.wait)
    done: list[tuple[int, bool]] = []
    entered: list[bool] = []

    def around(share: Callable[[], None]) -> None:
        entered.append(is_helping())
        share()

    threads.for_each(
        lambda item: done.append((item, is_helping())), range(5), threads=2, around=around
    )
    assert done == [(item, False) for item in range(5)]
    release.set()
    pool.shares.put(over.set)
    assert over.wait(timeout=600)
    assert len(done) == 5
    assert entered == [False]


def test_there_is_one_pool():
    """R21: no more helpers than were asked for at once."""
    for number in [*range(2, 12), *range(12, 1, -1)]:
        threads.for_each(lambda _: None, range(50), threads=number, around=plainly)
    assert len(threads._pool().helpers) == 11


@pytest.mark.parametrize("asked", [4, 200_000, 10**30])
def test_helpers_are_fewer_than_items(asked):
    """R21: a helper for each item beyond the first, however many are asked for."""
    meeting = threading.Barrier(4)
    threads.for_each(lambda _: meeting.wait(600), range(4), threads=asked, around=plainly)
    assert len(threads._pool().helpers) == 3
    assert threads._pool().shares.empty()


def test_nothing_is_kept():
    """R21: neither shares that nobody took, nor what helpers have worked on."""
    import weakref

    class Work:
        def __call__(self, item: int) -> None:
            time.sleep(0.001)

    for number in (0, 3):
        with pytest.MonkeyPatch.context() as patch:
            fail_from(number, patch)
            work = Work()
            alive = weakref.ref(work)
            for _ in range(5):
                threads.for_each(work, range(8), threads=HELPERS + 1, around=plainly)
            del work
        end = time.monotonic() + 600
        while alive() is not None:  # until helpers have come back from the last share
            gc.collect()
            assert time.monotonic() < end
        assert threads._pool().shares.empty()


@pytest.fixture(params=["numpy", "torch"])
def in_blocks(request, installed, monkeypatch) -> Any:
    """Arrays of many small blocks, in as many threads as can be started, and how they are read."""
    name = request.param
    if BACKENDS[name] not in installed:
        pytest.skip(f"{name} is not under test")
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((300, 40)).astype(np.float32)
    labels = rng.integers(0, 40, 300)
    sizes = {"SMALL": 50, "PARALLEL": 50, "BLOCK": 400, "TRANSPOSED_BLOCK": 400}
    if name == "torch":
        torch = pytest.importorskip("torch")
        from unified_loss._backends import _torch_blocks as backend

        sizes |= {"AT_ONCE": 50, "KEPT": 0}
        before = torch.get_num_threads()
        torch.set_num_threads(HELPERS + 1)
        request.addfinalizer(lambda: torch.set_num_threads(before))  # noqa: PT021
        logits, labels = torch.tensor(logits), torch.tensor(labels)
    else:
        from unified_loss._backends import numpy as backend

        sizes |= {"SHORT": 0}
        monkeypatch.setenv("UNIFIED_LOSS_NUM_THREADS", str(HELPERS + 1))
    for constant, size in sizes.items():
        monkeypatch.setattr(backend, constant, size)

    fill = _blocks.Field.fill

    def slowly(self, *arguments):
        if is_helping():
            time.sleep(0.002)
        fill(self, *arguments)

    monkeypatch.setattr(_blocks.Field, "fill", slowly)
    return logits, labels


@pytest.mark.parametrize("number", range(HELPERS))
def test_a_loss_is_right_whichever_thread_does_not_start(in_blocks, number, monkeypatch):
    """R21: the same bits, for the loss and for its gradient."""
    expected = [np.asarray(part) for part in cross_entropy_with_grad(*in_blocks, axis=-1)]
    threads._pool.cache_clear()
    fail_from(number, monkeypatch)
    for _ in range(5):
        found = cross_entropy_with_grad(*in_blocks, axis=-1)
        for part, whole in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(part), whole)


@pytest.mark.parametrize("number", range(1, HELPERS))
def test_a_block_that_fails_in_a_helper_fails_the_loss(in_blocks, number, monkeypatch):
    """R26: also beside threads that did not start."""
    fail_from(number, monkeypatch)
    logits = _blocks.Field.logits

    def fail(self, cut):
        if is_helping():
            raise ZeroDivisionError
        time.sleep(0.01)
        return logits(self, cut)

    monkeypatch.setattr(_blocks.Field, "logits", fail)
    with pytest.raises(ZeroDivisionError):
        cross_entropy_with_grad(*in_blocks)  # torch walks for a loss alone in its own threads


@pytest.mark.parametrize(
    ("own", "openmp", "number"),
    [
        ("3", "2", 3),
        (" 3 ", None, 3),
        ("200000", None, 200_000),
        ("", "2,1", 2),
        (None, "0", None),
        (None, "two", None),
        (None, "1" * 5000, None),
        (None, None, None),
    ],
)
def test_number_of_threads_follows_the_environment(monkeypatch, own, openmp, number):
    """R21: our variable, else OpenMP's, else the cores that the process may use."""
    set_environment(monkeypatch, own, openmp)
    assert threads.number_of_threads() == (number or cores())


@pytest.mark.parametrize("openmp", ["2", None])
@pytest.mark.parametrize("own", ["none", "0", "-2", "2.0", "1e3", " ", ",2", "1" * 5000])
def test_a_setting_that_is_no_number_is_named_and_ignored(monkeypatch, own, openmp):
    """R26: it raises nothing, and goes unnoticed by nobody."""
    set_environment(monkeypatch, own, openmp)
    with pytest.warns(RuntimeWarning, match="UNIFIED_LOSS_NUM_THREADS .* ignored: '") as caught:
        assert threads.number_of_threads() == (2 if openmp else cores())
    (warning,) = caught
    assert repr(own[:40]) in str(warning.message)
    assert len(str(warning.message)) < 150


def set_environment(monkeypatch: pytest.MonkeyPatch, own: str | None, openmp: str | None) -> None:
    """Our variable, and that of OpenMP."""
    for name, value in (("UNIFIED_LOSS_NUM_THREADS", own), ("OMP_NUM_THREADS", openmp)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


def cores() -> int:
    """Those that this process may use."""
    import os

    return len(os.sched_getaffinity(0))
