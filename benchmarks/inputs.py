"""The arguments of a case, on the host. Speed and memory are measured on the same ones."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.cases import EACH, HALF, Case, Shape

Array = npt.NDArray[np.generic]

IGNORED = -100
SMOOTHING = 0.1
Z_LOSS = 1e-4
# Random numbers are drawn once and repeated: a billion would take longer than the loss. The
# number is prime, so that no two rows begin alike.
DRAWN = 1_048_573


class HostInputs(NamedTuple):
    """Arguments as NumPy arrays; None for an option that the case has not."""

    logits: Array  # float32, also where the framework will compute in bfloat16; or hidden states
    weight: Array | None  # of the layer that makes logits of hidden states
    labels: Array
    class_weight: Array | None
    sample_weight: Array | None
    upstream: Array | None  # what each loss is multiplied by, where they are not reduced
    label_smoothing: float
    z_loss: float


def host_inputs(case: Case) -> HostInputs:
    """The arguments, the same at each call.

    Examples
    --------
    >>> inputs = host_inputs(Case("time", "numpy", (128, 10), "scipy"))
    >>> inputs.logits.shape, inputs.labels.shape
    ((128, 10), (128,))
    """
    rng = np.random.default_rng(case.size)
    drawn = rng.standard_normal(min(case.size, DRAWN), dtype=np.float32)
    logits_shape, weight = case.shape, None
    if case.features:
        logits_shape = (*case.batch, case.features)
        weight = _filled((case.num_classes, case.features), drawn / np.sqrt(case.features))
    return HostInputs(
        logits=_filled(logits_shape, drawn),
        weight=weight,
        labels=_labels(case, rng),
        class_weight=_option(case, "class_weight", np.linspace(0.5, 1.5, case.num_classes)),
        sample_weight=_option(case, "sample_weight", rng.uniform(0.5, 1.5, case.batch)),
        upstream=_option(case, EACH, rng.uniform(0.5, 1.5, case.batch)),
        label_smoothing=SMOOTHING if "label_smoothing" in case.options else 0.0,
        z_loss=Z_LOSS if "z_loss" in case.options else 0.0,
    )


def _filled(shape: Shape, drawn: Array) -> Array:
    """Without a second array of that size, which would count as peak memory."""
    flat = np.empty(math.prod(shape), np.float32)
    for start in range(0, flat.size, len(drawn)):
        part = flat[start : start + len(drawn)]
        part[:] = drawn[: len(part)]
    return flat.reshape(shape)


def _labels(case: Case, rng: np.random.Generator) -> Array:
    if case.labels == "dense":
        rows = rng.random(case.shape, dtype=np.float32)
        rows /= rows.sum(case.axis, keepdims=True)
        return rows
    labels = rng.integers(case.num_classes, size=case.batch)
    if "ignored" in case.options:
        is_ignored = rng.random(case.batch) < 0.1
        is_ignored.flat[0] = False  # the mean over nothing is NaN elsewhere
        labels[is_ignored] = IGNORED
    if HALF in case.options:
        labels[::2] = IGNORED
    return labels


def _option(case: Case, name: str, values: Array) -> Array | None:
    return values.astype(np.float32) if name in case.options else None
