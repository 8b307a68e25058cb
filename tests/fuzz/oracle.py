"""What the contract says of a call: its loss, all gradients, and second derivatives.

In numbers so wide (80 bits on most machines, with exponents up to 10**4932) that nothing drawn
here overflows. Arrays have one example a row, and what is one number an example is a column.
Shares no code with the package.
"""

from typing import Any, NamedTuple

import numpy as np

from tests.fuzz.calls import Call
from tests.helpers.problems import Array

WIDE, COMPLEX = np.longdouble, np.clongdouble
STEP = np.finfo(WIDE).tiny ** WIDE(0.6)  # along the imaginary axis; its square is exactly 0


class Options(NamedTuple):
    """The options of a call in wide numbers."""

    epsilon: Any
    z: Any
    has_weights: bool
    reduction: str
    normalizer: Any  # None: there is none
    limit: Any  # of the numbers of the dtype that is computed in, with some room


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
    masked: Array  # classes of -inf
    is_label: Array


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
    is_ill: bool  # masses cancel, but not exactly, or infinities may: no number is certain


def truth(call: Call, upstream: Array, direction: dict[str, Array]) -> Truth:
    """All of a call. `upstream` multiplies the loss; second derivatives are along `direction`."""
    options, point, fate = _read(call)
    along = _along(call, point, direction)
    muted = fate.masked & (point.t == 0)  # R18: such a label is a constant
    along = along._replace(t=np.where(muted, 0, along.t))
    u = np.broadcast_to(upstream.reshape(-1, 1).astype(WIDE), (len(point.x), 1))
    with np.errstate(all="ignore"):
        examples = _true_examples(options, point, fate)
        first = _assembled(options, examples, fate, u, -1)
        sizes = Point(*map(np.abs, point))
        scale, is_ill = _magnitudes(options, sizes, point, fate, np.abs(u), examples)
        second, second_scale = first, scale
        if direction:
            moved = Point(*(a + 1j * STEP * v for a, v in zip(point, along, strict=True)))
            second = _objective(options, moved, fate, u)
            second = Slopes(*(part.imag / STEP for part in second))
            reach = (a + np.abs(v) for a, v in zip(sizes[1:], along[1:], strict=True))
            reach = Point(point.x, *reach)
            second_scale, _ = _magnitudes(options, reach, point, fate, np.abs(u), examples)
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
        WIDE(np.finfo(compute).max) / 64,
    )
    rows = int(np.prod(batch))
    with np.errstate(all="ignore"):
        x = np.moveaxis(call.logits, axis, -1).reshape(rows, classes).astype(WIDE)
        ignored = np.zeros((rows, 1), bool)
        if call.has_index_labels:
            ids = np.array(call.labels.reshape(rows, 1).tolist(), object).reshape(rows, 1)
            ignored = np.asarray(ids == call.ignore_index, bool)
            is_label = np.asarray((ids >= 0) & (ids < classes), bool)
            t = np.asarray(ids == np.arange(classes).astype(object), bool).astype(WIDE)
        else:
            labels = call.labels.astype(compute).astype(WIDE)
            t = np.moveaxis(labels, axis, -1).reshape(rows, classes)
            is_label = np.isfinite(t).all(-1, keepdims=True)
        w = np.ones(classes, WIDE)
        if call.class_weight is not None:
            w = call.class_weight.astype(compute).astype(WIDE)
        s = call.example_weights().reshape(rows, 1).astype(compute).astype(WIDE)
        is_finite = np.isfinite(x.max(-1, keepdims=True)) & ~np.isnan(x).any(-1, keepdims=True)
        t = np.where(is_label, t, 0)
        k = _shares(options, t, w)
        idle = is_label & ~k.any(-1, keepdims=True) & (_sum(w * t) == 0)
        dropped = ignored | (s == 0) | idle
    fate = Fate(
        lives=is_finite & is_label & ~ignored,
        poisons=~dropped & ~(is_finite & is_label),
        dropped=dropped,
        has_mass=~ignored & (~idle | options.has_weights),
        masked=np.isneginf(x),
        is_label=is_label,
    )
    return options, Point(x, t, w, s), fate


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
    s = np.zeros((rows[0], 1), WIDE)
    if "sample_weight" in direction:
        s = call.but(sample_weight=wide("sample_weight", s)).example_weights().reshape(s.shape)
    return Point(x, t, wide("class_weight", point.w), s)


class Examples(NamedTuple):
    """Weighted examples n = s l + mass z lse^2, their masses, and the slopes of both."""

    n: Array
    n_x: Array
    n_t: Array
    n_w: Array
    n_s: Array
    mass: Array
    mass_t: Array
    mass_w: Array
    mass_s: Array


class Statistics(NamedTuple):
    """lse(x), -log p where it is not infinite, and p."""

    lse: Array
    surprise: Array
    p: Array


def _examples(
    options: Options, point: Point, fate: Fate, statistics: Statistics, sign: int
) -> Examples:
    """R10 to R13 in all examples; with `sign` 1 all terms are added, as magnitudes."""
    _, t, w, s = point
    lse, surprise, p = statistics
    epsilon, z, masked = options.epsilon, options.z, fate.masked
    share = epsilon / t.shape[-1]
    smooth = (1 - epsilon) * t + share * _sum(t)
    k = w * smooth
    unit = _sum(_surprised(k, surprise, masked))
    each = _surprised(w + 0 * t, surprise, masked)
    muted = masked & (t.real == 0)  # R18: a zero label on a masked class has no slope
    unit_t = _by(1 - epsilon, each) + _by(share, _sum(each))
    mass_s = fate.has_mass.astype(s.dtype)
    mass_t = mass_w = np.zeros_like(t)
    if options.has_weights:
        mass_s = mass_s * _sum(w * t)
        mass_t, mass_w = np.where(muted, 0, s * w), s * t
    penalty = z * lse * lse
    mass = s * mass_s
    return Examples(
        _by(s, unit) + _by(mass, penalty),
        # A backward may add it to one entry, and take it away again.
        _by(s, _sum(k) * p + sign * k) + _by(mass, 2 * z * lse * (p if sign < 0 else 1 + 0 * p)),
        np.where(muted, 0, _by(s, unit_t)) + _by(mass_t, penalty),
        _by(s, _surprised(smooth, surprise, masked)) + _by(mass_w, penalty),
        unit + _by(mass_s, penalty),
        mass, mass_t, mass_w, mass_s,
    )  # fmt: skip


def _shares(options: Options, t: Array, w: Array) -> Array:
    """What -log p is multiplied by in each class."""
    return w * ((1 - options.epsilon) * t + options.epsilon / t.shape[-1] * _sum(t))


def _sum(array: Array) -> Array:
    return array.sum(-1, keepdims=True)


def _by(factor: Any, infinite: Array) -> Array:
    """A product in which 0 wins, in the real part too."""
    wins = (np.real(factor) == 0) & ~np.isfinite(infinite)
    return np.where(wins, 0, factor * np.where(wins, 0, infinite))


def _surprised(weights: Array, surprise: Array, masked: Array) -> Array:
    """R10: 0 log 0 = 0; a masked class is infinitely surprising."""
    infinite = masked & (weights.real != 0)
    return np.where(infinite, np.inf * np.sign(weights.real), _by(weights, surprise))


def _true_examples(options: Options, point: Point, fate: Fate) -> Examples:
    x = np.where(fate.lives, np.where(fate.masked, 0, point.x), 0)
    masked = fate.masked & fate.lives
    peak = np.where(masked, -np.inf, x.real).max(-1, keepdims=True, initial=-np.inf)
    f = np.where(masked, 0, x - peak)
    e = np.where(masked, 0, np.exp(f))
    total = _sum(e)
    l = np.log(total)
    statistics = Statistics(peak + l, np.where(masked, 0, l - f), e / total)
    live = _examples(options, point, fate._replace(masked=masked), statistics, -1)
    counts = live.mass
    if options.has_weights:  # R17: a label that is no class id counts with mass s
        counts = np.where(fate.is_label, counts, point.s)
    return Examples(*(
        np.where(fate.lives, part, np.where(fate.poisons, value, 0))
        for part, value in zip(live, (*[np.nan] * 5, counts, *[np.nan] * 3), strict=True)
    ))  # fmt: skip


def _objective(options: Options, point: Point, fate: Fate, u: Array) -> Slopes:
    return _assembled(options, _true_examples(options, point, fate), fate, u, -1)


def _magnitudes(
    options: Options, sizes: Point, point: Point, fate: Fate, u: Array, true: Examples
) -> tuple[Slopes, bool]:
    """The sums of `_objective`, of `true` examples, with every term's magnitude in its place.

    Infinite where a term may overflow in the dtype that is computed in.
    """
    masked = fate.masked & fate.lives
    x = np.where(fate.lives & ~masked, point.x, 0)
    peak = np.where(masked, -np.inf, x).max(-1, keepdims=True, initial=-np.inf)
    f = np.where(masked, 0, x - peak)
    e = np.where(masked, 0, np.exp(f))
    l = np.log(_sum(e))
    surprise = np.abs(f) + np.abs(l) + 1
    p = e / _sum(e)
    p = p * (1 + surprise)
    most = np.maximum(1, np.abs(sizes.w).sum()) * np.maximum(1, _sum(sizes.t))
    surprise = np.where(surprise * most < options.limit, surprise, np.inf)
    # A weight that leaves 0 at a masked class makes the loss jump: there is no derivative.
    jumps = masked & (_shares(options, *point[1:3]) == 0) & (_shares(options, *sizes[1:3]) != 0)
    # Nor has the infinite loss of a dropped row a slope that others could have a slope in.
    shares = (_shares(options, *point[1:3]) != 0) | bool(options.epsilon)
    endless = fate.dropped & (masked & shares).any(-1, keepdims=True)
    p = np.where((most < options.limit) & ~jumps & ~endless, p, np.inf)
    lse = np.abs(peak) + l + 1
    lse = np.where(lse * lse < options.limit, lse, np.inf) if options.z else 0 * lse
    found = _examples(options, sizes, fate._replace(masked=masked), Statistics(lse, surprise, p), 1)
    counts = fate.lives | fate.poisons
    found = Examples(*(np.where(counts, part, 0) for part in found))
    found = found._replace(mass=np.where(fate.poisons, sizes.s, found.mass))
    real, total = true.mass.sum(), found.mass.sum()
    is_exact = real == 0 and np.all(found.mass % 0.125 == 0)  # in any order of adding up
    is_ill = options.reduction == "mean" and bool(np.abs(real) < 2**-10 * total) and not is_exact
    if options.reduction != "none" and np.isinf(true.n.sum()):
        # An example that may overflow can be an infinity of the other sign.
        is_ill = is_ill or bool((np.isfinite(true.n) & ~np.isfinite(found.n)).any())
    return _assembled(options, found, fate, u, 1, real), is_ill


def _assembled(
    options: Options, examples: Examples, fate: Fate, u: Array, sign: int, real: Any = None
) -> Slopes:
    """R14 and R15; `real` is the total mass whose magnitude is that of `examples`."""
    n, n_x, n_t, n_w, n_s, mass, mass_t, mass_w, mass_s = examples
    if options.reduction == "none":
        return Slopes(n, u * n_x, u * n_t, (u * n_w).sum(0), u * n_s)
    u = u[0] if len(u) else np.ones(1)
    loss = n.sum()
    slopes = (n_x, n_t, n_w.sum(0), n_s)
    if options.reduction == "mean":
        total = mass.sum()
        real = total.real if real is None else real
        is_smooth = options.normalizer is not None and bool(fate.dropped.all())
        if not len(n) or (real == 0 and not is_smooth):
            return Slopes(np.zeros_like(loss), *map(np.zeros_like, slopes))
        if options.normalizer is not None:
            u, loss = u / options.normalizer, loss / options.normalizer
        else:
            inverse = 1 / total if sign < 0 else total * total / np.abs(real) ** 3
            loss, u = loss * inverse, u * inverse
            rest = (mass_t, mass_w.sum(0), mass_s)
            moved = (a + sign * _by(b, loss) for a, b in zip(slopes[1:], rest, strict=True))
            slopes = (n_x, *moved)
    return Slopes(loss, *(u * slope for slope in slopes))


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
