"""The training loop: one for all libraries."""

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np

from unified_loss._cross_entropy import cross_entropy_with_grad, kernel_of
from unified_loss._demo.heads import FEATURES, WAYS, Way, head_of
from unified_loss._demo.memory import host_peak, is_measurable, resident
from unified_loss._demo.models import Model, model_of
from unified_loss._demo.text import Text
from unified_loss._explain import explain
from unified_loss._libraries import HostArray, Library
from unified_loss._types import Array

TRAINING_IMAGES = 1437  # four fifths of the 1,797


class Digits(NamedTuple):
    """Images of 8 x 8 pixels as rows of 64 numbers in [0, 1], and the digits they show."""

    images: HostArray
    labels: HostArray
    test_images: HostArray
    test_labels: HostArray


class Run(NamedTuple):
    """What training with one library gave."""

    name: str
    version: str
    device: str
    kernel: str
    losses: tuple[float, ...]
    accuracy: float
    milliseconds: float


class Curve(NamedTuple):
    """What training in one way gave."""

    losses: tuple[float, ...]
    milliseconds: float
    peak: int | None  # bytes at the peak of the last step; None: the system does not tell


class HeadRun(NamedTuple):
    """What training a language model with one library gave, with logits and without."""

    name: str
    version: str
    walk: str
    curves: dict[Way, Curve]


def train_step(model: Model, images: Array, labels: Array) -> Array:
    """One step of gradient descent; the middle line is the one that is the same everywhere."""
    logits, descend = model(images)
    loss, gradient = cross_entropy_with_grad(logits, labels)
    descend(gradient)
    return loss


def train(
    library: Library, report_step: Callable[[], object], *, digits: Digits, steps: int
) -> Run:
    """Train on all images at once, from weights that are the same for every library."""
    images = library.asarray(digits.images, "float32")
    labels = library.asarray(digits.labels, "int32")
    model = model_of(library, _initial_weights())
    losses, seconds = [], []
    for _ in range(steps):
        start = perf_counter()
        losses.append(float(library.to_numpy(train_step(model, images, labels))))
        seconds.append(perf_counter() - start)
        report_step()
    test_logits, _ = model(library.asarray(digits.test_images, "float32"))
    guesses = library.to_numpy(test_logits).argmax(axis=1)
    return Run(
        name=library.name,
        version=library.version,
        device=library.device(test_logits),
        kernel=kernel_of(model(images)[0], labels),
        losses=tuple(losses),
        accuracy=float((guesses == digits.test_labels).mean()),
        milliseconds=1000 * float(np.median(seconds)),
    )


def train_heads(
    library: Library, report_step: Callable[[], object], *, text: Text, steps: int
) -> HeadRun:
    """Train a language model twice, from the same weights: its loss with logits, and without."""
    features, labels = text.step(0)
    head = head_of(library, len(text.vectors))
    hidden = library.asarray(features[:, :FEATURES], "float32")
    walk = explain(hidden, library.asarray(labels), weight=head.weight, bias=head.bias).kernel
    few = text._replace(batch=2)
    for way in WAYS:  # a library is large once its first step is done
        _train_head(library, few, 1, way, lambda: None, 0)
    start = resident() if is_measurable() else 0
    # What a library keeps of the larger steps is theirs.
    curves = {
        way: _train_head(library, text, steps, way, report_step, start) for way in reversed(WAYS)
    }
    return HeadRun(library.name, library.version, str(walk), curves)


def _train_head(
    library: Library,
    text: Text,
    steps: int,
    way: Way,
    report_step: Callable[[], object],
    resident_before: int,
) -> Curve:
    model, head = model_of(library, _layer(text.features)), head_of(library, len(text.vectors))
    losses: list[float] = []
    seconds = []

    def take_step(features: Array, labels: Array) -> None:
        nonlocal head
        hidden, descend = model(features)
        hidden = hidden.detach() if hasattr(hidden, "detach") else hidden  # which torch records
        loss, gradients = head.loss_and_gradients(hidden, labels, way)
        descend(gradients.hidden)
        head = head.after(gradients)
        losses.append(float(library.to_numpy(loss)))

    peak = None
    for number in range(steps):
        features, labels = text.step(number)
        arrays = library.asarray(features, "float32"), library.asarray(labels)
        start = perf_counter()
        if number == steps - 1 and is_measurable():
            peak = host_peak(partial(take_step, *arrays), resident_before)
        else:
            take_step(*arrays)
        seconds.append(perf_counter() - start)
        report_step()
    return Curve(tuple(losses), 1000 * float(np.median(seconds)), peak)


def _layer(features: int) -> HostArray:
    """The weights from the words before to the hidden states, as they are in the beginning."""
    scale = features**-0.5
    return np.random.default_rng(1).normal(0, scale, (features, FEATURES)).astype(np.float32)


def load_digits() -> Digits:
    """The handwritten digits that ship with scikit-learn, shuffled and split."""
    from sklearn.datasets import load_digits as from_sklearn

    images, labels = from_sklearn(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = (images / 16).astype(np.float32)[order], labels[order]
    return Digits(
        images[:TRAINING_IMAGES],
        labels[:TRAINING_IMAGES],
        images[TRAINING_IMAGES:],
        labels[TRAINING_IMAGES:],
    )


def _initial_weights() -> HostArray:
    return np.random.default_rng(1).normal(0, 0.01, (64, 10)).astype(np.float32)
