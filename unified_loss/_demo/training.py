"""The training loop: one for all libraries."""

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import numpy as np

from unified_loss._cross_entropy import cross_entropy_with_grad, kernel_of
from unified_loss._demo.models import Model, model_of
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


def train_step(model: Model, images: Array, labels: Array) -> Array:
    """One step of gradient descent; the middle line is the one that is the same everywhere."""
    logits, descend = model(images)
    loss, gradient = cross_entropy_with_grad(logits, labels)
    descend(gradient)
    return loss


def train(library: Library, digits: Digits, steps: int, report_step: Callable[[], object]) -> Run:
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
