"""What is drawn: forms of calls, and values with garbage wherever the contract says 0."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tests.fuzz.calls import (
    DIFFERENTIABLE,
    HALVES,
    HAS_BFLOAT16,
    Call,
    Case,
    Form,
    dtype_of,
    is_floating,
)
from tests.fuzz.oracle import fate_of
from tests.helpers.problems import Array

Rng = np.random.Generator
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
WEIGHTS = ("float32",) * 4 + ("float16", "bfloat16", "float64", "int32")
BATCHES = ((), (0,), (1,), (2,), (3,), (3,), (4,), (6,), (2, 0), (2, 2), (3, 2), (2, 1, 2))


class Ability(NamedTuple):
    """What forms a backend takes."""

    floats: tuple[str, ...]
    weights: tuple[str, ...] = WEIGHTS
    layouts: tuple[str, ...] = ("plain",)
    sizes: tuple[str, ...] = ("usual",)
    has_autodiff: bool = True
    large: bool = True  # also forms of many logits


def pick(rng: Rng, options: Sequence[Any]) -> Any:
    """One of some options."""
    return options[int(rng.integers(len(options)))]


def chance(rng: Rng, probability: float) -> bool:
    """True with a probability."""
    return bool(rng.random() < probability)


def draw_form(rng: Rng, ability: Ability) -> Form:
    """A form, mostly small."""
    ability = ability._replace(floats=_usable(ability.floats), weights=_usable(ability.weights))
    dtype = pick(rng, (*ability.floats, "float32", "float32"))
    batch = pick(rng, BATCHES)
    classes = int(rng.integers(1, 10)) if chance(rng, 0.7) else pick(rng, (2, 3, 5))
    size = pick(rng, ability.sizes)
    if size == "blocks" or (ability.large and chance(rng, 0.02)):
        batch = pick(rng, ((40,), (7, 9), (5, 3, 4)))
        classes = pick(rng, (2, 3, 5, 17, 33, 70))
    elif chance(rng, 0.03):
        classes = pick(rng, (63, 64, 65, 130, 1025))
    class_axis = -1 - int(rng.integers(len(batch) + 1)) if chance(rng, 0.6) else -1
    kind = pick(rng, ("index", "index", "index", "kept", "dense", "dense"))
    integers = [name for name in INTEGERS if np.iinfo(name).max >= classes]
    labels = pick(rng, ("int64", "int32", *integers))
    if kind == "dense":
        labels = pick(rng, ("float32", "float32", *ability.floats, "bool", "int64", "uint8"))
        if classes == 1 and labels in INTEGERS:
            labels = "bool"  # integers of shape (..., 1) are class ids
    options = _options(rng, kind, classes)
    sample = None
    if chance(rng, 0.6):
        sample = pick(rng, (*ability.weights, "float32", "bool"))
    class_weight = pick(rng, ability.weights) if chance(rng, 0.4) else None
    form = Form(
        dtype, batch, classes, class_axis,
        kind=kind, labels=labels,
        class_weight=class_weight, sample_weight=sample,
        first_axis=len(batch) > 1 and chance(rng, 0.3),
        layout=pick(rng, ability.layouts), size=size,
        check=pick(rng, ("auto", False, False)),
        **options,
    )  # fmt: skip
    on_host = [name for name in DIFFERENTIABLE[1:] if chance(rng, 0.2)]
    wrt = ["logits"]
    if ability.has_autodiff and chance(rng, 0.6):
        given = {"labels": labels, "class_weight": class_weight, "sample_weight": sample}
        wrt += [
            name
            for name, of in given.items()
            if of and of.startswith(("float", "bfloat")) and chance(rng, 0.8)
        ]
    return form._replace(
        axis=_axis(rng, form), wrt=tuple(wrt), on_host=tuple(set(on_host) - set(wrt))
    )


def _usable(dtypes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in dtypes if name != "bfloat16" or HAS_BFLOAT16)


def _options(rng: Rng, kind: str, classes: int) -> dict[str, Any]:
    reduction = pick(rng, ("mean", "mean", "sum", "none"))
    normalizer = pick(rng, (None, None, 2.5, 7.0)) if reduction == "mean" else None
    ignored = pick(rng, (-100, -100, -100, None, 255, 0, classes - 1, 2**40))
    return {
        "ignore_index": -100 if kind == "dense" else ignored,
        "label_smoothing": pick(rng, (0.0, 0.0, 0.0, 0.1, 0.25, 1.0, 1e-3)),
        "z_loss": pick(rng, (0.0, 0.0, 0.0, 0.125, 1.0, 1e-4)),
        "reduction": reduction,
        "normalizer": normalizer,
        "normalizer_is_array": normalizer is not None and chance(rng, 0.5),
    }


def _axis(rng: Rng, form: Form) -> int | None:
    ndim = len(form.batch) + 1
    if ndim <= 2 and form.class_axis == -1 and chance(rng, 0.4):
        may_be_index = form.kind != "dense" or form.labels.startswith(("float", "bfloat"))
        return None if ndim == 2 or may_be_index else -1
    return form.class_axis + ndim if chance(rng, 0.3) else form.class_axis


def draw_case(rng: Rng, form: Form, *, unit: bool = False, along: bool = True) -> Case:
    """Values for a form. `unit`: the loss is multiplied by 1; `along`: with a direction."""
    labels = _labels(rng, form)
    kept_garbage = chance(rng, 0.08)
    clean = chance(rng, 0.15)
    call = Call(
        np.zeros(_shape(form), dtype_of(form.dtype)),
        labels,
        form.class_axis % (len(form.batch) + 1),
        form.axis,
        class_weight=_weights(rng, form.class_weight, (form.classes,)),
        sample_weight=_sample_weights(rng, form),
        ignore_index=form.ignore_index,
        label_smoothing=form.label_smoothing,
        z_loss=form.z_loss,
        reduction=form.reduction,
        normalizer=form.normalizer,
        check=form.check,
        normalizer_is_array=form.normalizer_is_array,
    )
    dropped = fate_of(call).dropped[:, 0]
    if not clean:
        call = call.but(labels=_spoilt_labels(rng, call, dropped))
    rows = _logits(rng, form, call, dropped, kept_garbage=kept_garbage, clean=clean)
    logits = np.moveaxis(rows.reshape(*form.batch, form.classes), -1, form.class_axis)
    call = call.but(logits=np.ascontiguousarray(logits).astype(dtype_of(form.dtype)))
    call = _laid_out(form, call)
    upstream = np.ones(form.batch if form.reduction == "none" else ())
    if not unit:
        upstream = rng.integers(1, 9, upstream.shape) / 4 * rng.choice([-1, 1], upstream.shape)
    upstream = upstream.astype(np.float64 if form.dtype == "float64" else np.float32)
    direction = {}
    for name in form.wrt if along else ():
        like = call.arrays[name]
        direction[name] = (rng.integers(-8, 9, like.shape) / 8).astype(like.dtype)
    return Case(call, upstream, direction)


def _shape(form: Form) -> tuple[int, ...]:
    at = form.class_axis % (len(form.batch) + 1)
    return (*form.batch[:at], form.classes, *form.batch[at:])


def _labels(rng: Rng, form: Form) -> Array:
    dtype = dtype_of(form.labels)
    if form.kind == "dense":
        return _dense_labels(rng, form).astype(dtype)
    bounds = np.iinfo(form.labels)
    ids = rng.integers(0, form.classes, form.batch)
    wide = ids.astype(object)
    ignored = form.ignore_index
    if ignored is not None and bounds.min <= ignored <= bounds.max:
        wide = np.where(rng.random(form.batch) < 0.35, ignored, wide)
    foreign = chance(rng, 0.25) if form.check is False else False
    if foreign:
        wild = [-1, -100, 255, form.classes, bounds.max, bounds.min, 2**31, 2**33 + 1]
        wild = [v for v in wild if bounds.min <= v <= bounds.max and not 0 <= v < form.classes]
        if wild:
            chosen = np.array(wild, object)[rng.integers(0, len(wild), form.batch)]
            wide = np.where(rng.random(form.batch) < 0.3, chosen, wide)
    labels = np.asarray(wide).astype(dtype).reshape(form.batch)
    return np.expand_dims(labels, form.class_axis) if form.kind == "kept" else labels


def _dense_labels(rng: Rng, form: Form) -> Array:
    rows = (*form.batch, form.classes)
    sort = pick(rng, ("one-hot", "grid", "grid", "probabilities", "signed"))
    ids = rng.integers(0, form.classes, (*form.batch, 1))
    if sort == "one-hot" or not form.labels.startswith(("float", "bfloat")):
        t = (ids == np.arange(form.classes)).astype(float)
        if chance(rng, 0.3):
            t = (rng.random(rows) < 0.4).astype(float)
    elif sort == "probabilities":
        t = rng.random(rows)
        t /= t.sum(-1, keepdims=True)
    else:
        t = rng.integers(-4 if sort == "signed" and chance(rng, 0.4) else 0, 5, rows) / 4
    t = np.where(rng.random((*form.batch, 1)) < 0.2, 0, t)
    return np.ascontiguousarray(np.moveaxis(t, -1, form.class_axis))


def _weights(rng: Rng, dtype: str | None, shape: tuple[int, ...]) -> Array | None:
    """On a grid so coarse that sums and products are exact, or positive."""
    if dtype is None:
        return None
    if dtype == "bool":
        return rng.random(shape) < pick(rng, (0.0, 0.3, 0.7, 0.7))
    sort = pick(rng, ("grid", "grid", "grid", "positive", "zero", "signed", "cancel"))
    if dtype == "int32":
        return rng.integers(-2 if sort == "cancel" else 0, 4, shape).astype(dtype)
    values = rng.integers(0, 9, shape) / 4
    if sort == "positive":
        values = rng.random(shape) + 0.25
    elif sort == "zero":
        values = np.zeros(shape)
    elif sort == "signed":
        values = rng.integers(-8, 9, shape) / 4
    elif sort == "cancel":
        flat = np.zeros(int(np.prod(shape)))
        flat[0::2][: len(flat) // 2] = 1.5
        flat[1::2] = -1.5
        values = flat.reshape(shape)
    values = np.where(rng.random(shape) < pick(rng, (0.0, 0.3, 0.5)), 0, values)
    return values.astype(dtype_of(dtype))


def _sample_weights(rng: Rng, form: Form) -> Array | None:
    return _weights(rng, form.sample_weight, form.batch[:1] if form.first_axis else form.batch)


def _spoilt_labels(rng: Rng, call: Call, dropped: Array) -> Array:
    """Anything in the labels of examples of weight 0 (R16: whatever their label holds)."""
    if call.sample_weight is None or call.labels.size == 0 or not chance(rng, 0.4):
        return call.labels
    off = call.example_weights() == 0
    off = np.expand_dims(off, call.class_axis)
    if call.has_index_labels:
        info = np.iinfo(call.labels.dtype)
        wild = np.array([info.max, info.min, min(call.num_classes, info.max), 0])
        labels = call.labels.reshape(off.shape)
        chosen = wild[rng.integers(0, 4, off.shape)].astype(labels.dtype)
        spoilt = np.where(off & (rng.random(off.shape) < 0.6), chosen, labels)
        return spoilt.reshape(call.labels.shape)
    if not is_floating(call.labels):
        return call.labels
    shape = call.labels.shape
    wild = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, -1, 1e-45, 7])
    with np.errstate(all="ignore"):
        chosen = wild[rng.integers(0, len(wild), shape)].astype(call.labels.dtype)
    return np.where(off & (rng.random(shape) < 0.5), chosen, call.labels)


GARBAGE = (
    "nan", "one nan", "inf", "one inf", "-inf", "masked", "both", "huge", "-huge", "mixed huge",
    "max", "denormal", "offset", "nan and inf",
)  # fmt: skip
# Where a row counts, and in derivatives of weights, what these add up to is beyond the dtype.
HUGE = ("huge", "-huge", "mixed huge", "max")


def _logits(
    rng: Rng, form: Form, call: Call, dropped: Array, *, kept_garbage: bool, clean: bool
) -> Array:
    rows = len(dropped)
    scale = pick(rng, (0.1, 3, 3, 3, 30))
    x = rng.standard_normal((rows, form.classes)) * scale
    if chance(rng, 0.3):
        x = np.round(x * 2) / 2
    if chance(rng, 0.1):
        x[:] = 0.0
    if clean:
        return x
    with np.errstate(all="ignore"):
        if chance(rng, 0.25):
            x = _masked(rng, call, x, anywhere=chance(rng, 0.2))
        for i in range(rows):
            if chance(rng, 0.7) if dropped[i] else kept_garbage and chance(rng, 0.5):
                is_lost = dropped[i] and set(form.wrt) <= {"logits"}
                unfit = () if is_lost else (*HUGE, *(("offset",) if form.z_loss else ()))
                sorts = [sort for sort in GARBAGE if sort not in unfit]
                x[i] = garbage(rng, pick(rng, sorts), form.dtype, x[i])
    return x


def _masked(rng: Rng, call: Call, x: Array, *, anywhere: bool) -> Array:
    """Classes of -inf where no probability is, or anywhere."""
    off = rng.random(x.shape) < 0.4
    if not anywhere and call.label_smoothing:
        return x
    if not anywhere:
        if call.has_index_labels:
            ids = [min(max(int(v), 0), x.shape[1] - 1) for v in call.labels.reshape(-1).tolist()]
            off[np.arange(len(x)), ids] = False
        else:
            t = np.moveaxis(call.labels, call.class_axis, -1).reshape(x.shape)
            off &= t == 0
    return np.where(off, -np.inf, x)


def garbage(rng: Rng, sort: str, dtype: str, x: Array) -> Array:
    """A row that should not matter."""
    info = np.finfo(np.float32) if dtype in HALVES else np.finfo(dtype)
    top = {"float16": 65504.0, "bfloat16": 3.3895e38}.get(dtype, float(info.max))
    one = np.zeros(len(x), bool)
    one[rng.integers(len(x))] = True
    some = rng.random(len(x)) < 0.5
    signs = rng.choice([-1.0, 1.0], len(x))
    made = {
        "nan": x * np.nan,
        "one nan": np.where(one, np.nan, x),
        "inf": np.full_like(x, np.inf),
        "one inf": np.where(one, np.inf, x),
        "-inf": np.full_like(x, -np.inf),
        "masked": np.where(some, -np.inf, x),
        "both": np.where(one, np.inf, np.where(some, -np.inf, x)),
        "huge": np.where(some, 0.9 * top, x),
        "-huge": np.where(some, -0.9 * top, x),
        "mixed huge": signs * 0.9 * top,
        "max": np.where(one, top, np.where(some, -top, x)),
        "denormal": x * float(info.tiny) / 8,
        "offset": x + top / 1e3,
        "nan and inf": np.where(one, np.nan, signs * np.inf),
    }
    return made[sort]


def _laid_out(form: Form, call: Call) -> Call:
    """The same values in memory that is not contiguous."""
    if form.layout == "plain":
        return call
    names = [name for name, array in call.arrays.items() if array.ndim]
    if form.layout == "repeated":  # the first example again and again
        names = ["logits"] if call.class_axis else []
    return call.but(**{name: laid_out(form.layout, call.arrays[name]) for name in names})


def laid_out(layout: str, array: Array) -> Array:
    """A view with other strides; "repeated" ones also take the values of a first entry."""
    if layout == "reversed":
        return np.ascontiguousarray(array[::-1])[::-1]
    if layout == "transposed":
        return np.ascontiguousarray(array.T).T
    if layout == "repeated" and len(array):
        return np.broadcast_to(array[:1].copy(), array.shape)
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]
