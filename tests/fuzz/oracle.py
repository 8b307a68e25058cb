"""What the contract says of a call: its loss, all gradients, and second derivatives.

One example at a time, and in numbers so wide (80 bits on most machines, with exponents up to
10**4932) that nothing drawn here overflows. Shares no code with the package.
"""

from typing import Any, NamedTuple

import numpy as np

from tests.fuzz.calls import Call
from tests.problems import Array

WIDE, COMPLEX = np.longdouble, np.clongdouble
STEP = WIDE(1e-40)  # of a derivative along the imaginary axis, which rounds nothing away


class Options(NamedTuple):
    """The options of a call in wide numbers."""

    epsilon: Any
    z: Any
    has_weights: bool
    reduction: str
    normalizer: Any  # None: there is none


class Point(NamedTuple):
    """The arrays that a loss can be differentiated in, one example a row."""

    x: Array
    t: Array
    w: Array
    s: Array


class Fate(NamedTuple):
    """What becomes of an example, which no derivative changes."""

    lives: Array  # its derivatives are those of the formulas
    poisons: Array  # it counts, and is NaN
    dropped: Array
    has_mass: Array
    masked: Array  # classes of -inf, in a row


class Slopes(NamedTuple):
    """An objective and its derivatives; `losses` as the call returns them."""

    losses: Array
    x: Array
    t: Array
    w: Array
    s: Array


class Truth(NamedTuple):
    """Derivatives beside the magnitudes of the terms that each is summed from."""

    first: Slopes
    scale: Slopes
    second: Slopes
    second_scale: Slopes
    is_ill: bool  # masses cancel, but not exactly: no number is certain


def truth(call: Call, upstream: Array, direction: dict[str, Array]) -> Truth:
    """All of a call. `upstream` multiplies the loss; second derivatives are along `direction`."""
    options, point, fate = _read(call)
    along = _along(call, point, direction)
    u = np.broadcast_to(upstream.reshape(-1).astype(WIDE), (len(point.x),))
    with np.errstate(all="ignore"):
        first = _objective(options, point, fate, u)
        moved = Point(*(a + 1j * STEP * v for a, v in zip(point, along, strict=True)))
        second = _objective(options, moved, fate, u)
        second = Slopes(*(part.imag / STEP for part in second))
        sizes = Point(*map(np.abs, point))
        scale, is_ill = _magnitudes(options, sizes, point, fate, np.abs(u))
        reach = Point(point.x, *(a + np.abs(v) for a, v in zip(sizes[1:], along[1:], strict=True)))
        second_scale, _ = _magnitudes(options, reach, point, fate, np.abs(u))
        factor = 1 + 2 * np.abs(along.x).max(initial=0)
        second_scale = Slopes(*(part * factor for part in second_scale))
    parts = (_shaped(call, slopes) for slopes in (first, scale, second, second_scale))
    return Truth(*parts, is_ill)


def fate_of(call: Call) -> Fate:
    """What becomes of each example."""
    return _read(call)[2]


def _read(call: Call) -> tuple[Options, Point, Fate]:
    classes, batch, axis = call.num_classes, call.batch_shape, call.class_axis
    compute = np.float64 if call.logits.dtype == np.float64 else np.float32
    options = Options(
        WIDE(call.label_smoothing),
        WIDE(call.z_loss),
        call.class_weight is not None,
        call.reduction,
        None if call.normalizer is None else WIDE(call.normalizer),
    )
    rows = int(np.prod(batch))
    with np.errstate(all="ignore"):
        x = np.moveaxis(call.logits, axis, -1).reshape(rows, classes).astype(WIDE)
        ignored = np.zeros(rows, bool)
        if call.has_index_labels:
            ids = [int(label) for label in call.labels.reshape(-1).tolist()]
            ignored = np.array([label == call.ignore_index for label in ids], bool)
            is_label = np.array([0 <= label < classes for label in ids], bool)
            t = np.zeros((rows, classes), WIDE)
            for row, label in enumerate(ids):
                if is_label[row]:
                    t[row, label] = 1
        else:
            labels = call.labels.astype(compute).astype(WIDE)
            t = np.moveaxis(labels, axis, -1).reshape(rows, classes)
            is_label = np.isfinite(t).all(-1)
        w = np.ones(classes, WIDE)
        if call.class_weight is not None:
            w = call.class_weight.astype(compute).astype(WIDE)
        s = call.example_weights().reshape(-1).astype(compute).astype(WIDE)
        peak = x.max(-1, initial=-np.inf)
        is_finite = np.isfinite(peak) & ~np.isnan(x).any(-1)
        t = np.where(is_label[:, None], t, 0)
        k = w * _smoothed(options, t)
        idle = is_label & ~k.any(-1) & ((w * t).sum(-1) == 0)
        dropped = ignored | (s == 0) | idle
    fate = Fate(
        lives=is_finite & is_label & ~ignored,
        poisons=~dropped & ~(is_finite & is_label),
        dropped=dropped,
        has_mass=~ignored & (~idle | options.has_weights),
        masked=np.isneginf(x),
    )
    return options, Point(x, t, w, s), fate


def _smoothed(options: Options, t: Array) -> Array:
    share = options.epsilon / t.shape[-1]
    return (1 - options.epsilon) * t + share * t.sum(-1, keepdims=True)


def _along(call: Call, point: Point, direction: dict[str, Array]) -> Point:
    def wide(name: str, like: Array) -> Array:
        if name not in direction:
            return np.zeros(like.shape, WIDE)
        return direction[name].astype(WIDE)

    axis, rows = call.class_axis, point.x.shape
    x = np.moveaxis(wide("logits", call.logits), axis, -1).reshape(rows)
    t = np.zeros(rows, WIDE)
    if "labels" in direction:
        t = np.moveaxis(wide("labels", call.labels), axis, -1).reshape(rows)
    s = np.zeros(rows[0], WIDE)
    if "sample_weight" in direction:
        s = call.but(sample_weight=wide("sample_weight", point.s)).example_weights().reshape(-1)
    return Point(x, t, wide("class_weight", point.w), s)


class Example(NamedTuple):
    """A weighted example n = s l + mass z lse^2, its mass, and the slopes of both."""

    n: Any
    n_x: Array
    n_t: Array
    n_w: Array
    n_s: Any
    mass: Any
    mass_t: Array
    mass_w: Array
    mass_s: Any


def _example(
    options: Options, row: Point, statistics: tuple[Any, Array, Array], masked: Array,
    has_mass: Any, sign: int,
) -> Example:  # fmt: skip
    """R10 to R13, from lse(x), -log p and p; with `sign` 1 all terms are added, as magnitudes."""
    _, t, w, s = row
    lse, surprise, p = statistics
    epsilon, z, has_weights, *_ = options
    share = epsilon / len(t)
    smooth = (1 - epsilon) * t + share * t.sum()
    k = w * smooth
    unit = _times(k, surprise, masked).sum()
    muted = masked & (t.real == 0)  # R18: a zero label on a masked class has no slope
    unit_t = (1 - epsilon) * _times(w, surprise, masked) + share * _times(w, surprise, masked).sum()
    mass, mass_s = s * has_mass, has_mass
    mass_t = mass_w = np.zeros_like(t)
    if has_weights:
        mass_s = (w * t).sum()
        mass, mass_t, mass_w = s * mass_s, np.where(muted, 0, s * w), s * t
    penalty = z * lse * lse
    return Example(
        s * unit + mass * penalty,
        s * (k.sum() * p + sign * k) + 2 * mass * z * lse * p,
        np.where(muted, 0, s * unit_t) + mass_t * penalty,
        s * _times(smooth, surprise, masked) + mass_w * penalty,
        unit + mass_s * penalty,
        mass, mass_t, mass_w, mass_s,
    )  # fmt: skip


def _times(weights: Array, surprise: Array, masked: Array) -> Array:
    """R10: 0 log 0 = 0; the surprise of a masked class is infinite."""
    product = weights * np.where(masked, 0, surprise)
    return np.where(masked & (weights.real != 0), np.inf * np.sign(weights.real), product)


def _examples(options: Options, point: Point, fate: Fate) -> list[Example]:
    examples = []
    for i, x in enumerate(point.x):
        row = Point(x, point.t[i], point.w, point.s[i])
        masked = fate.masked[i]
        mass = point.s[i] * fate.has_mass[i]
        nothing = np.zeros_like(x)
        if fate.lives[i]:
            peak = x.real.max()
            shifted = np.where(masked, 0, x - peak)
            e = np.where(masked, 0, np.exp(shifted))
            total = e.sum()
            l = np.log(total)
            statistics = peak + l, l - shifted, e / total
            examples.append(_example(options, row, statistics, masked, fate.has_mass[i], -1))
        elif fate.poisons[i]:
            nan = nothing + WIDE(np.nan)
            if options.has_weights and point.t[i].any():
                mass = mass * (row.w * row.t).sum()
            examples.append(Example(nan[0], nan, nan, nan, nan[0], mass, nan, nan, nan[0]))
        else:
            zero = nothing[0] * 0
            examples.append(
                Example(zero, nothing, nothing, nothing, zero, zero, nothing, nothing, zero)
            )
    return examples


def _objective(options: Options, point: Point, fate: Fate, u: Array) -> Slopes:
    return _assembled(options, point, fate, _examples(options, point, fate), u, -1)[0]


def _magnitudes(
    options: Options, sizes: Point, point: Point, fate: Fate, u: Array
) -> tuple[Slopes, bool]:
    """The sums of `_objective` with every term's magnitude in its place."""
    examples = []
    for i, x in enumerate(point.x):
        masked = fate.masked[i]
        row = Point(x, sizes.t[i], sizes.w, sizes.s[i])
        lse, surprise, p = WIDE(0), np.zeros_like(x), np.zeros_like(x)
        if fate.lives[i]:
            peak = x.max()
            f = np.where(masked, 0, x - peak)
            e = np.where(masked, 0, np.exp(f))
            l = np.log(e.sum())
            one = len(x) > 1  # of a single class, nothing is rounded
            lse = np.abs(peak) + l + one
            surprise = np.abs(f) + np.abs(l) + one
            p = e / e.sum()
            p = p * (1 + surprise)
        nowhere = np.zeros_like(masked)
        counts = fate.has_mass[i] * (fate.lives[i] or fate.poisons[i])
        example = _example(options, row, (lse, surprise, p), nowhere, counts, 1)
        if not (fate.lives[i] or fate.poisons[i]):
            example = Example(*(part * 0 for part in example))
        examples.append(example)
    true_mass = sum((example.mass for example in _examples(options, point, fate)), WIDE(0))
    return _assembled(options, point, fate, examples, u, 1, true_mass)


def _assembled(
    options: Options, point: Point, fate: Fate, examples: list[Example], u: Array, sign: int,
    true_mass: Any = None,
) -> tuple[Slopes, bool]:  # fmt: skip
    kind = point.x.dtype if sign > 0 else np.result_type(*point)
    rows, classes = point.x.shape

    def column(name: str, *shape: int) -> Array:
        return np.array([getattr(e, name) for e in examples], kind).reshape(rows, *shape)

    n, n_s, mass, mass_s = (column(name) for name in ("n", "n_s", "mass", "mass_s"))
    n_x, n_t, n_w, mass_t, mass_w = (
        column(name, classes) for name in ("n_x", "n_t", "n_w", "mass_t", "mass_w")
    )
    u = u.astype(kind)
    if options.reduction == "none":
        each = u[:, None]
        return Slopes(n, each * n_x, each * n_t, (each * n_w).sum(0), u * n_s), False
    factor = u[0] if rows else np.ones((), kind)
    if options.reduction == "sum":
        slopes = (n.sum(), n_x, n_t, n_w.sum(0), n_s)
        return Slopes(slopes[0], *(factor * slope for slope in slopes[1:])), False
    total = mass.sum()
    real = total.real if true_mass is None else true_mass.real
    is_ill = False
    if sign > 0:
        is_ill = bool(0 < np.abs(real) < 2**-10 * total)
    nothing_left = real == 0
    differs = options.normalizer is not None and bool(fate.dropped.all())
    if not rows or (nothing_left and not differs):
        zeros = (np.zeros((), kind), n_x, n_t, n_w.sum(0), n_s)
        return Slopes(*(np.zeros_like(part) for part in zeros)), is_ill
    if options.normalizer is not None:
        by = factor / options.normalizer
        slopes = (n_x * by, n_t * by, n_w.sum(0) * by, n_s * by)
        return Slopes(n.sum() / options.normalizer, *slopes), is_ill
    inverse = 1 / total
    if sign > 0:
        condition = total / np.abs(real)
        inverse = condition**2 / np.abs(real)
    loss = n.sum() * inverse
    by = factor * inverse
    slopes = (
        n_x * by,
        (n_t + sign * loss * mass_t) * by,
        (n_w.sum(0) + sign * loss * mass_w.sum(0)) * by,
        (n_s + sign * loss * mass_s) * by,
    )
    return Slopes(loss, *slopes), is_ill


def _shaped(call: Call, slopes: Slopes) -> Slopes:
    """In the shapes of the call's arrays."""
    batch, axis, classes = call.batch_shape, call.class_axis, call.num_classes
    losses, x, t, w, s = slopes
    if call.reduction == "none":
        losses = losses.reshape(batch)
    x, t = (np.moveaxis(part.reshape(*batch, classes), -1, axis) for part in (x, t))
    s = s.reshape(batch)
    if call.sample_weight is not None and call.sample_weight.ndim < len(batch):
        s = s.sum(tuple(range(call.sample_weight.ndim, len(batch))))
    return Slopes(np.asarray(losses), x, t, w, s)
