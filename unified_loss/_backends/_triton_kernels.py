"""The fused kernels, in Triton: row statistics in one reading of the logits, and their gradient.

A program takes a tile of ROWS rows and walks along their classes, COLS at a time, or along one
part of them where few rows have many classes; `merge` then joins the parts. Maximum and sums are
kept from tile to tile: when the maximum m grows by d, the sum of exponentials shrinks by exp(-d),
and a weighted sum of the factors x - m by its weights times d.

The letters are those of `_statistics`. Rows are counted in the order of the batch. Offsets have 64
bits. Numbers of rows lie in planes, one after the other; which ones there are, `planes` tells.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

INFINITY = tl.constexpr(float("inf"))
NUMBERS = {"float32": tl.float32, "float64": tl.float64}

# What changes from call to call: compiled again for none of its values.
_SIZES = ["rows", "d1", "d2", "splits"]


@triton.jit
def row_offsets(row, d1, d2, d3, s0, s1, s2, s3, NDIM: tl.constexpr):
    """Where rows begin, in a batch of NDIM axes (1, 2 or 4) of any strides."""
    if NDIM == 1:
        return row * s3
    found = row % d3 * s3
    row = row // d3
    if NDIM == 2:
        return found + row * s2
    found += row % d2 * s2
    row = row // d2
    return found + row % d1 * s1 + row // d1 * s0


INTERPRETED = tl.constexpr(not isinstance(row_offsets, triton.JITFunction))


@triton.jit
def exponential(x):
    """Exp, as accurate as torch's: the hardware's own loses a digit to the product with log2(e)."""
    return tl.exp(x) if INTERPRETED else libdevice.exp(x)


@triton.jit
def logarithm(x):
    """Log, as accurate as torch's: the hardware's own loses most digits next to 1."""
    return tl.log(x) if INTERPRETED else libdevice.log(x)


@triton.jit
def weighed(weights, f):
    """Weights times factors, where a weight of 0 times -inf is 0."""
    return tl.where((weights == 0) & (f == -INFINITY), 0.0, weights * f)


@triton.jit
def finish(
    m, total_exp, p, q, total, mass, low, high, out, plane, row, mask,
    PICKED: tl.constexpr, SMOOTHED: tl.constexpr, DENSE: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Write what is known of whole rows, plane by plane."""
    base = tl.where(m == -INFINITY, 0.0, m)
    tl.store(out + row, base, mask=mask)
    out += plane
    tl.store(out + row, logarithm(total_exp), mask=mask)
    out += plane
    if PICKED:
        tl.store(out + row, p, mask=mask)
        out += plane
    if SMOOTHED:
        tl.store(out + row, q, mask=mask)
        out += plane
    if DENSE:
        tl.store(out + row, total, mask=mask)
        out += plane
        tl.store(out + row, high, mask=mask)
        out += plane
        if WEIGHTED:
            tl.store(out + row, mass, mask=mask)
            out += plane
            if SMOOTHED:
                tl.store(out + row, low, mask=mask)


@triton.jit
def picked(x, at, x_class, labels, row, m, classes, mask):
    """The factor of each row's label; 0 where that is no class id."""
    label = tl.load(labels + row, mask=mask, other=-1).to(tl.int64)
    is_class = mask & (label >= 0) & (label < classes)
    entry = tl.load(x + at + label * x_class, mask=is_class, other=0.0).to(m.dtype)
    base = tl.where(m == -INFINITY, 0.0, m)
    return tl.where(is_class, entry - base, 0.0)


@triton.jit
def reconciled(
    p, q, m, total_exp, total, x, labels, weight, share, at, t_at, x_class, t_class, classes,
    counts, COLS: tl.constexpr,
):  # fmt: skip
    """The sums p and q, made anew in rows where they are infinities that contradict each other.

    A negative label of a class of -inf makes them so. What that class costs has the sign of its
    smoothed label t + share T, which is known when T is: p takes all of it, and q nothing. Rows
    with NaN, and of -inf alone, stay as they are; without such rows no logit is read.
    """
    joint = p + total * q
    lost = counts & (total_exp > 0) & (tl.abs(total) > 0) & (joint != joint)  # noqa: PLR0124 (NaN)
    if tl.max(lost.to(tl.int32), 0) > 0:
        new_p = tl.zeros_like(p)
        new_q = tl.zeros_like(q)
        extra = tl.load(share) * total
        for start in range(0, classes, COLS):
            col = start + tl.arange(0, COLS).to(tl.int64)
            inside = col < classes
            both = lost[:, None] & inside[None, :]
            entry = tl.load(x + at[:, None] + (col * x_class)[None, :], mask=both, other=0.0)
            f = tl.where(both, entry.to(m.dtype) - m[:, None], 0.0)
            t = tl.load(labels + t_at[:, None] + (col * t_class)[None, :], mask=both, other=0)
            t = t.to(m.dtype)
            is_masked = f == -INFINITY
            k = tl.where(is_masked, t + extra[:, None], t)
            rest = tl.where(is_masked, 0.0, f)
            if weight is not None:
                w = tl.load(weight + col, mask=inside, other=0.0).to(m.dtype)
                k = w[None, :] * k
                rest = w[None, :] * rest
            new_p += tl.sum(weighed(k, f), 1)
            new_q += tl.sum(rest, 1)
        p = tl.where(lost, new_p, p)
        q = tl.where(lost, new_q, q)
    return p, q


@triton.jit(do_not_specialize=_SIZES)
def statistics(
    x, labels, weight, share, dropped, out,
    x0, x1, x2, x3, x_class, t0, t1, t2, t3, t_class,
    rows, classes, d1, d2, d3, splits, part,
    NUMBER: tl.constexpr, DENSE: tl.constexpr, PICKED: tl.constexpr, SMOOTHED: tl.constexpr,
    NDIM: tl.constexpr, SPLIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Row statistics, or with SPLIT those of a part of each row.

    For dense labels also their sums: T and M, and the extremes of the terms that smoothing does
    not change. `share` is given where they are smoothed, and not smoothing alone counts.
    """
    WEIGHTED: tl.constexpr = weight is not None
    program = tl.program_id(0).to(tl.int64)
    split = program % splits
    row = program // splits * ROWS + tl.arange(0, ROWS)
    mask = row < rows
    counts = mask
    if dropped is not None:  # rows that need not be read
        counts = mask & (tl.load(dropped + row, mask=mask, other=1) == 0)
    at = row_offsets(row, d1, d2, d3, x0, x1, x2, x3, NDIM)
    t_at = row_offsets(row, d1, d2, d3, t0, t1, t2, t3, NDIM)

    m = tl.full([ROWS], -INFINITY, NUMBER)
    total_exp = tl.zeros([ROWS], NUMBER)
    p = tl.zeros([ROWS], NUMBER)
    q = tl.zeros([ROWS], NUMBER)
    total = tl.zeros([ROWS], NUMBER)
    mass = tl.zeros([ROWS], NUMBER)
    low = tl.full([ROWS], INFINITY, NUMBER)
    high = tl.full([ROWS], -INFINITY, NUMBER)
    weight_seen = tl.sum(tl.zeros([COLS], NUMBER), 0)
    first = split * part
    last = tl.minimum(first + part, classes)
    for start in range(first, last, COLS):
        col = start + tl.arange(0, COLS).to(tl.int64)
        inside = col < classes  # not `last`, so that a compiler sees how it is aligned
        both = counts[:, None] & inside[None, :]
        entry = tl.load(x + at[:, None] + (col * x_class)[None, :], mask=both, other=-INFINITY).to(
            NUMBER
        )
        peak = tl.maximum(m, tl.max(entry, 1))
        base = tl.where(peak == -INFINITY, 0.0, peak)
        shift = tl.where(m == -INFINITY, 0.0, m - base)
        f = entry - base[:, None]
        total_exp = total_exp * exponential(shift) + tl.sum(exponential(f), 1)
        if WEIGHTED:
            w = tl.load(weight + col, mask=inside, other=0.0).to(NUMBER)
        if DENSE:
            t = tl.load(labels + t_at[:, None] + (col * t_class)[None, :], mask=both, other=0).to(
                NUMBER
            )
            k = t
            if WEIGHTED:
                k = w[None, :] * t
            if PICKED:
                p += mass * shift + tl.sum(tl.where(both, weighed(k, f), 0.0), 1)
            mass += tl.sum(k, 1)
            if WEIGHTED:
                total += tl.sum(t, 1)
            else:
                total = mass
            term = k
            term_counts = both
            if SMOOTHED:
                term = t
                if WEIGHTED:
                    term_counts = both & (w != 0)[None, :]
            high = tl.maximum(high, tl.max(tl.where(term_counts, term, -INFINITY), 1))
            if WEIGHTED and SMOOTHED:
                low = tl.minimum(low, tl.min(tl.where(term_counts, term, INFINITY), 1))
        if SMOOTHED:
            if WEIGHTED:
                q += weight_seen * shift + tl.sum(tl.where(both, weighed(w[None, :], f), 0.0), 1)
                weight_seen += tl.sum(w, 0)
            else:
                q += (start - first).to(NUMBER) * shift + tl.sum(tl.where(both, f, 0.0), 1)
        m = peak

    if SPLIT:
        plane = rows * splits
        place = split * rows + row
        tl.store(out + place, m, mask=mask)
        tl.store(out + plane + place, total_exp, mask=mask)
        if DENSE:
            tl.store(out + 2 * plane + place, p, mask=mask)
            tl.store(out + 3 * plane + place, mass, mask=mask)
            tl.store(out + 4 * plane + place, total, mask=mask)
            tl.store(out + 5 * plane + place, high, mask=mask)
            tl.store(out + 6 * plane + place, low, mask=mask)
        if SMOOTHED:
            if not WEIGHTED:
                weight_seen += (last - first).to(NUMBER)
            tl.store(out + 7 * plane + place, q, mask=mask)
            tl.store(out + 8 * plane + place, tl.zeros([ROWS], NUMBER) + weight_seen, mask=mask)
    else:
        if PICKED and not DENSE:
            p = picked(x, at, x_class, labels, row, m, classes, counts)
        if share is not None:
            p, q = reconciled(
                p, q, m, total_exp, total, x, labels, weight, share, at, t_at, x_class, t_class,
                classes, counts, COLS,
            )  # fmt: skip
        if dropped is not None:
            m, total_exp = tl.where(counts, m, 0.0), tl.where(counts, total_exp, 1.0)
            p, q = tl.where(counts, p, 0.0), tl.where(counts, q, 0.0)
        finish(
            m, total_exp, p, q, total, mass, low, high, out, rows, row, mask,
            PICKED, SMOOTHED, DENSE, WEIGHTED,
        )  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def merge(
    parts, x, labels, weight, share, dropped, out,
    x0, x1, x2, x3, x_class, t0, t1, t2, t3, t_class,
    rows, classes, d1, d2, d3, splits,
    PICKED: tl.constexpr, SMOOTHED: tl.constexpr, DENSE: tl.constexpr,
    NDIM: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Row statistics from those of up to PARTS parts."""
    WEIGHTED: tl.constexpr = weight is not None
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mask = row < rows
    counts = mask
    if dropped is not None:
        counts = mask & (tl.load(dropped + row, mask=mask, other=1) == 0)
    split = tl.arange(0, PARTS)
    both = counts[:, None] & (split < splits)[None, :]
    place = parts + split[None, :].to(tl.int64) * rows + row[:, None]
    plane = rows.to(tl.int64) * splits
    peaks = tl.load(place, mask=both, other=-INFINITY)
    m = tl.max(peaks, 1)
    base = tl.where(m == -INFINITY, 0.0, m)
    shift = tl.where(peaks == -INFINITY, 0.0, peaks - base[:, None])
    sums = tl.load(place + plane, mask=both, other=0.0)
    total_exp = tl.sum(sums * exponential(shift), 1)
    p = tl.zeros([ROWS], m.dtype)
    q = p
    total = p
    mass = p
    low = p
    high = p
    if DENSE:
        masses = tl.load(place + 3 * plane, mask=both, other=0.0)
        p = tl.sum(tl.load(place + 2 * plane, mask=both, other=0.0) + masses * shift, 1)
        mass = tl.sum(masses, 1)
        total = tl.sum(tl.load(place + 4 * plane, mask=both, other=0.0), 1)
        high = tl.max(tl.load(place + 5 * plane, mask=both, other=-INFINITY), 1)
        low = tl.min(tl.load(place + 6 * plane, mask=both, other=INFINITY), 1)
    elif PICKED:
        at = row_offsets(row, d1, d2, d3, x0, x1, x2, x3, NDIM)
        p = picked(x, at, x_class, labels, row, m, classes, counts)
    if SMOOTHED:
        weights = tl.load(place + 8 * plane, mask=both, other=0.0)
        q = tl.sum(tl.load(place + 7 * plane, mask=both, other=0.0) + weights * shift, 1)
    if share is not None:
        at = row_offsets(row, d1, d2, d3, x0, x1, x2, x3, NDIM)
        t_at = row_offsets(row, d1, d2, d3, t0, t1, t2, t3, NDIM)
        p, q = reconciled(
            p, q, m, total_exp, total, x, labels, weight, share, at, t_at, x_class, t_class,
            classes, counts, COLS,
        )  # fmt: skip
    if dropped is not None:
        m, total_exp = tl.where(counts, m, 0.0), tl.where(counts, total_exp, 1.0)
        p, q = tl.where(counts, p, 0.0), tl.where(counts, q, 0.0)
    finish(
        m, total_exp, p, q, total, mass, low, high, out, rows, row, mask,
        PICKED, SMOOTHED, DENSE, WEIGHTED,
    )  # fmt: skip


@triton.jit(do_not_specialize=[*_SIZES, "a_step", "b_step", "c_step"])
def gradient(
    x, labels, weight, dropped, m, l, a, b, c, out,
    x0, x1, x2, x3, x_class, t0, t1, t2, t3, t_class, g0, g1, g2, g3, g_class,
    rows, classes, d1, d2, d3, splits, a_step, b_step, c_step,
    DENSE: tl.constexpr, NDIM: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The gradient a softmax(x) - b K - c w of each row, and 0 in rows that are dropped.

    A coefficient is one number a row, or with a step of 0 one for all. There are as many splits
    as tiles along the classes.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program // splits * ROWS + tl.arange(0, ROWS)
    col = program % splits * COLS + tl.arange(0, COLS)
    mask = row < rows
    inside = col < classes
    there = mask[:, None] & inside[None, :]
    counts = mask
    if dropped is not None:
        counts = mask & (tl.load(dropped + row, mask=mask, other=1) == 0)
    both = counts[:, None] & inside[None, :]
    at = row_offsets(row, d1, d2, d3, x0, x1, x2, x3, NDIM)
    g_at = row_offsets(row, d1, d2, d3, g0, g1, g2, g3, NDIM)
    base = tl.load(m + row, mask=mask, other=0.0)
    NUMBER: tl.constexpr = base.dtype
    entry = tl.load(x + at[:, None] + (col * x_class)[None, :], mask=both, other=0.0).to(NUMBER)
    log_sum = tl.load(l + row, mask=mask, other=0.0)
    softmax = exponential(entry - base[:, None] - log_sum[:, None])
    slope = softmax * tl.load(a + row * a_step, mask=mask, other=0.0)[:, None]
    if weight is not None:
        w = tl.load(weight + col, mask=inside, other=0.0).to(NUMBER)
    if b is not None:
        scale = tl.load(b + row * b_step, mask=mask, other=0.0)
        if DENSE:
            t_at = row_offsets(row, d1, d2, d3, t0, t1, t2, t3, NDIM)
            k = tl.load(labels + t_at[:, None] + (col * t_class)[None, :], mask=both, other=0).to(
                NUMBER
            )
            if weight is not None:
                k = w[None, :] * k
            slope = slope - scale[:, None] * k
        else:
            label = tl.load(labels + row, mask=mask, other=-1).to(tl.int64)
            slope = tl.where(label[:, None] == col[None, :], slope - scale[:, None], slope)
    if c is not None:
        share = tl.load(c + row * c_step, mask=mask, other=0.0)[:, None]
        slope = slope - (share * w[None, :] if weight is not None else share)
    slope = tl.where(both, slope, 0.0)
    tl.store(
        out + g_at[:, None] + (col * g_class)[None, :],
        slope.to(out.dtype.element_ty),
        mask=there,
    )
