"""Cases drawn at random: sizes, layouts and options that nobody chose."""

import math
from random import Random

from benchmarks.cases import BOTH, COMBINED, FLOAT, FORWARD, NATIVE, Case, Shape

# The libraries that are drawn for, and how each runs its losses there.
MODES = {"numpy": "eager", "torch": "eager", "jax": "compiled", "tensorflow": "eager"}
HALVES = ("torch", "jax", "tensorflow")  # that have bfloat16
STRIDED = ("numpy", "torch")  # that have strides

ROWS = (1, 10**5)
CLASSES = (2, 10**5)
MOST = 4 * 10**7  # logits
IMAGES = 8  # at most


def drawn(framework: str, number: int, seed: int) -> list[Case]:
    """So many cases of a library, the same for the same seed.

    Examples
    --------
    >>> one, other = drawn("torch", 2, seed=0)
    >>> one == drawn("torch", 1, seed=0)[0], one == other
    (True, False)
    """
    random = Random(f"{framework} {seed}")  # noqa: S311 (nothing is secret)
    found: dict[Case, None] = {}
    while len(found) < number:
        found[_case(random, framework)] = None
    return list(found)


def _case(random: Random, framework: str) -> Case:
    """Sizes are as likely in each decade; a third of the labels is dense, half are plain calls."""
    shape = _shape(random)
    labels = random.choices(("index", "dense"), (2, 1))[0]
    is_half = framework in HALVES and random.random() < 1 / 5
    is_strided = framework in STRIDED and random.random() < 1 / 5
    return Case(
        kind="grid",
        framework=framework,
        shape=shape,
        peer=FLOAT if is_half and framework == "torch" else NATIVE[framework],
        mode=MODES[framework],
        direction=random.choice((FORWARD, BOTH)),
        dtype="bfloat16" if is_half else "float32",
        labels=labels,
        options=_options(random, labels),
        layout=random.choice(("sliced", "transposed")) if is_strided else "contiguous",
    )


def _shape(random: Random) -> Shape:
    """Rows and classes; of a quarter, the rows are pixels, and the classes on axis 1."""
    rows, classes = MOST, MOST
    while rows * classes > MOST:
        rows, classes = _log_uniform(random, *ROWS), _log_uniform(random, *CLASSES)
    if random.random() >= 1 / 4:
        return rows, classes
    images = random.randint(1, min(rows, IMAGES))
    height = math.isqrt(rows // images)
    return images, classes, height, rows // images // height


def _options(random: Random, labels: str) -> tuple[str, ...]:
    """Options that the native losses have: each alone, or all of them.

    No library ignores dense labels, and each divides those with weights by something else.
    """
    if random.random() < 1 / 2:
        return ()
    if labels == "dense":
        return ("label_smoothing",)
    return random.choice((*((option,) for option in COMBINED), COMBINED))


def _log_uniform(random: Random, low: int, high: int) -> int:
    return round(math.exp(random.uniform(math.log(low), math.log(high))))
