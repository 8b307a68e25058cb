"""CuPy in blocks, by a library that stands for it: nothing waits, no array is large."""

import numpy as np
import pytest

from tests.backends.test_numpy_blocks import OPTIONS, SHAPES, sample
from tests.helpers.remote_arrays import RemoteArray, home, sizes_made
from unified_loss import cross_entropy, cross_entropy_totals, cross_entropy_with_grad, explain
from unified_loss._backends import _array_ops as library

BLOCK = 1000  # more than there are examples


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks for a few thousand logits."""
    monkeypatch.setattr(library, "WALK", library.WALK._replace(size=BLOCK))


def call(shape, axis, option, rng):
    """A call on the host, and the same elsewhere."""
    *arrays, options = sample(shape, axis, option, rng)
    there = {k: RemoteArray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    return (arrays, options), (list(map(RemoteArray, arrays)), there)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_only_the_gradient_is_large(shape, axis, option, rng):
    """R21, R26: the numbers of NumPy, by arrays of a block's size, whose values nobody sees."""
    (arrays, options), (theirs, others) = call(shape, axis, option, rng)
    with sizes_made() as sizes:
        alone = cross_entropy(*theirs, **others)
    assert max(sizes) <= BLOCK
    with sizes_made() as sizes:
        loss, slope = cross_entropy_with_grad(*theirs, **others)
    assert [size for size in sizes if size > BLOCK] == [arrays[0].size]
    truth, slopes = cross_entropy_with_grad(*arrays, **options)
    np.testing.assert_array_equal(home(alone), home(loss))
    np.testing.assert_allclose(home(loss), truth, rtol=1e-5)
    np.testing.assert_allclose(home(slope), slopes, rtol=1e-5, atol=3e-7)
    assert home(slope).dtype == np.float32


def test_explain_tells_the_blocks(rng):
    """R25: the route that the call takes, and the memory of a block."""
    _, (large, _) = call((700, 10), 1, "plain", rng)
    report = explain(*large)
    assert report.kernel == "row statistics (array API), in blocks"
    assert f"of {BLOCK:,} logits" in dict(report.facts)["memory"]
    _, (small, _) = call((7, 10), 1, "plain", rng)
    assert explain(*small).kernel == "row statistics (array API)"


@pytest.mark.parametrize("option", ["plain", "dense", "all"])
def test_totals_are_those_of_all_rows_at_once(option, rng):
    """R35: the sums of blocks, which are read by nobody."""
    (arrays, options), (theirs, others) = call((700, 10), 1, option, rng)
    for each in (options, others):
        each.pop("reduction", None)
    with sizes_made() as sizes:
        found = cross_entropy_totals(*theirs, **others)
    assert max(sizes) <= BLOCK
    truth = cross_entropy_totals(*arrays, **options)
    np.testing.assert_allclose([home(each) for each in found], truth, rtol=1e-5)


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_rows_that_do_not_count_may_hold_anything(garbage, rng):
    """R15, R16: some rows, and then all of them, without a look at which."""
    logits = rng.standard_normal((700, 10)).astype(np.float32)
    labels = rng.integers(10, size=700)
    labels[::2] = -100
    clean, dirty = logits.copy(), logits.copy()
    dirty[::2] = garbage
    loss, slope = cross_entropy_with_grad(RemoteArray(dirty), RemoteArray(labels))
    truth, slopes = cross_entropy_with_grad(clean, labels)
    np.testing.assert_allclose(home(loss), truth, rtol=1e-6)
    np.testing.assert_allclose(home(slope), slopes, rtol=1e-5, atol=1e-9)
    nothing = RemoteArray(np.full(700, -100))
    loss, slope = cross_entropy_with_grad(RemoteArray(dirty), nothing)
    assert home(loss) == 0
    assert not home(slope).any()


@pytest.mark.parametrize("option", ["plain", "dense"])
def test_few_logits_are_done_at_once(option, monkeypatch, rng):
    """R21: what one block would hold, without the steps of a walk."""
    monkeypatch.setattr(library, "walk_loss", None)
    monkeypatch.setattr(library, "walk_sums", None)
    (arrays, options), (theirs, others) = call((50, 10), 1, option, rng)
    truth, slopes = cross_entropy_with_grad(*arrays, **options)
    loss, slope = cross_entropy_with_grad(*theirs, **others)
    totals = cross_entropy_totals(*theirs, **others)
    for found in (loss, cross_entropy(*theirs, **others), totals.loss / totals.mass):
        np.testing.assert_allclose(home(found), truth, rtol=1e-5)
    np.testing.assert_allclose(home(slope), slopes, rtol=1e-5, atol=3e-7)
