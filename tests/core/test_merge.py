"""Statistics of parts of the classes, merged, are those of the whole."""

import functools
import itertools
import sys

import numpy as np
import pytest

from unified_loss._dispatch import backend_of
from unified_loss._statistics import Part, Statistics, merge

CUTS = [(0, 7), (0, 1, 7), (0, 3, 4, 7), (0, 1, 2, 3, 4, 5, 6, 7)]


@pytest.fixture
def ops(backend):
    """The operations of a backend whose kernels are the common ones."""
    array = backend.asarray(np.zeros(2, np.float32))
    module = sys.modules[type(backend_of(array)).__module__]
    found = module._ops(array) if hasattr(module, "_ops") else module.OPS
    if not hasattr(found, "log"):
        pytest.skip("its kernel is its own")
    return found


def part_of(x, k, w):
    """The statistics of rows by their definition, with the care that `row_statistics` takes."""
    with np.errstate(all="ignore"):
        m = x.max(-1, keepdims=True)
        m = np.where(m == -np.inf, 0.0, m)
        f = x - m
        l = np.log(np.exp(f).sum(-1, keepdims=True))
        p = (k * np.where(k == 0, 0.0, f)).sum(-1, keepdims=True)
        q = (w * np.where(w == 0, 0.0, f)).sum(-1, keepdims=True)
    return Part(Statistics(m, l, p, q), k.sum(-1, keepdims=True), w.sum(-1, keepdims=True))


def rows(rng):
    """Rows that are plain, partly masked, wholly masked, huge, and infinite."""
    x = rng.normal(size=(8, 7)) * 5
    k, w = rng.random((2, 8, 7)) * (rng.random((2, 8, 7)) < 0.7)
    k[1:4] = np.eye(7)[[0, 3, 6]]
    x[1, 1:], x[2, :3], x[3], x[4, 2] = -np.inf, -np.inf, -np.inf, -np.inf
    k[4, 2] = 0.0
    x[5] *= 1e30
    x[6, 3] = np.inf
    return x, k, w


def on(backend, part):
    """A part, as arrays of a library."""

    def array(values):
        made = backend.asarray(values, "float32")
        if backend.name != "dask":
            return made
        from unified_loss._backends._dask import Lazy  # what its operations work on

        return Lazy(made)

    return Part(Statistics(*map(array, part.statistics)), array(part.mass), array(part.weight))


def numbers(backend, part):
    """All numbers of a part."""
    arrays = (*part.statistics, part.mass, part.weight)
    return [backend.to_numpy(getattr(array, "array", array)) for array in arrays]


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_the_parts_tell_what_the_whole_tells(backend, ops, cuts, rng):
    """R19: in any order, with any cuts, and beside whatever is masked or infinite."""
    x, k, w = rows(rng)
    wanted = part_of(x, k, w)
    parts = [
        on(backend, part_of(*(array[:, slice(*cut)] for array in (x, k, w))))
        for cut in itertools.pairwise(cuts)
    ]
    for some in (parts, parts[::-1], [*parts[1::2], *parts[::2]]):
        with np.errstate(all="ignore"):
            merged = functools.reduce(functools.partial(merge, ops), some)
        found = numbers(backend, merged)
        for one, other in zip(found, numbers(backend, on(backend, wanted)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_merge_is_associative(backend, ops, rng):
    """Parts of parts may be merged first, whatever lies where."""
    parts = [on(backend, part_of(*rows(rng))) for _ in range(3)]
    with np.errstate(all="ignore"):
        left = merge(ops, merge(ops, parts[0], parts[1]), parts[2])
        right = merge(ops, parts[0], merge(ops, parts[1], parts[2]))
    for one, other in zip(numbers(backend, left), numbers(backend, right), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_what_nobody_asks_for_stays_absent(backend, ops, rng):
    """Without smoothing no q is computed."""
    part = on(backend, part_of(*rows(rng)))
    bare = Part(part.statistics._replace(p=None, q=None), None, None)
    with np.errstate(all="ignore"):
        merged = merge(ops, bare, bare)
    assert merged.statistics[2:] == (None, None) == (merged.mass, merged.weight)
