"""Results beside the truth: what differs by more than rounding can explain."""

from typing import Any, NamedTuple

import numpy as np

from tests.fuzz.calls import Form
from tests.fuzz.oracle import Truth
from tests.fuzz.runners import Results
from tests.helpers.problems import Array

FIELDS = {"logits": "x", "labels": "t", "class_weight": "w", "sample_weight": "s"}
BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
SMALLEST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}
LARGEST = {"float16": 65504.0, "bfloat16": 3e38, "float32": 3e38, "float64": 1e308}


class Difference(NamedTuple):
    """What is wrong with one result."""

    name: str
    nature: str
    got: Any
    true: Any


def differences(form: Form, truth: Truth, results: Results) -> list[Difference]:
    """All results that are wrong."""
    found = []
    for name, got in results.items():
        true, scale, dtypes = _expected(name, form, truth)
        nature = _wrong(name, got, true, scale, form, dtypes)
        if nature:
            found.append(Difference(name, nature, got, np.asarray(true, np.float64)))
    return found


def _expected(name: str, form: Form, truth: Truth) -> tuple[Array, Array, tuple[str, ...]]:
    compute = "float64" if form.dtype == "float64" else "float32"
    if name == "loss":
        return truth.first.losses, truth.scale.losses, (compute,)
    if name == "along":
        # A loss that is infinite or NaN has no slope to promise: 0 times infinity is in it.
        wild = ~np.isfinite(truth.first.losses)
        true, scale = (
            np.where(wild, unknown, one.losses)
            for one, unknown in ((truth.second, np.nan), (truth.second_scale, np.inf))
        )
        return true, scale, (compute, *(_dtype(form, n) for n in form.wrt))
    order, _, array = name.partition(" ")
    field, dtypes = FIELDS[array], (compute, _dtype(form, array))
    first = getattr(truth.first, field)
    if array != "logits" and form.reduction == "mean" and not np.isfinite(truth.first.losses):
        first = np.full_like(first, np.nan)  # nor has such a mean, but in the logits (R16)
    if order == "d":
        return first, getattr(truth.scale, field), dtypes
    dtypes += tuple(_dtype(form, other) for other in form.wrt)
    scale = np.where(np.isfinite(first), getattr(truth.second_scale, field), np.inf)
    return np.where(np.isnan(first), np.nan, getattr(truth.second, field)), scale, dtypes


def _dtype(form: Form, array: str) -> str:
    names = {"logits": form.dtype, "labels": form.labels}
    names |= {"class_weight": form.class_weight, "sample_weight": form.sample_weight}
    name = names[array]
    return name if name in BITS else "float32"


def _wrong(
    name: str, got: Array, true: Array, scale: Array, form: Form, dtypes: tuple[str, ...]
) -> str:
    if got.shape != true.shape:
        return f"shape {got.shape}, not {true.shape}"
    terms = 16 + form.classes + int(np.prod(form.batch))
    epsilon = 2.0 ** -min(BITS[dtype] for dtype in dtypes)
    tiny = max(SMALLEST[dtype] for dtype in dtypes)
    limit = min(LARGEST[dtype] for dtype in dtypes)
    with np.errstate(all="ignore"):
        overflows = ~(scale < limit / 64)
        largest = np.max(scale, where=np.isfinite(scale), initial=1)  # of a factor that underflows
        tolerance = terms * (epsilon * scale + tiny * largest * (scale > 0))
        error = np.abs(got.astype(np.longdouble) - true)
        is_exact = name in {"loss", "d logits"}
        masks = {
            "NaN": np.isnan(got) & np.isfinite(true) & ~overflows,
            "infinite": np.isinf(got) & np.isfinite(true) & ~overflows,
            "not 0": (got != 0) & (scale == 0) & np.isfinite(true),
            "off": np.isfinite(true) & ~overflows & (error > tolerance),
        }
        if is_exact:
            masks["not NaN"] = np.isnan(true) & ~np.isnan(got)
            masks["not infinite"] = np.isinf(true) & (got != true)
            masks["-0"] = (got == 0) & np.signbit(got) & (name == "loss")
        else:
            masks["NaN, not infinite"] = np.isinf(true) & np.isnan(got)
    return next((nature for nature, mask in masks.items() if np.any(mask)), "")
