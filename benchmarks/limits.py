"""How long a case may take at most, and how much memory.

On a quiet machine of two cores. `LIMITS` is read from the top, and the first row that fits a case
holds for it.
"""

from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.cases import (
    BOTH,
    EACH,
    FEW_CLASSES,
    FLOAT,
    FORWARD,
    HALF,
    HUGE_TOKENS,
    HUGE_VOCABULARY,
    IMAGES,
    LARGE,
    LARGE_FROM,
    MIDDLE,
    OPTIONS,
    PLAIN,
    SMALLEST,
    TOKENS,
    TORCH_LINEAR,
    TWO_STEPS,
    VOCABULARY,
    Case,
    Shape,
)


class Limit(NamedTuple):
    """What a case may take at most; None: as much as it likes.

    ratio
        Our time as a multiple of the peer's.
    added_us
        What a call takes more than the peer's, in microseconds.
    ours_ms
        Our time, in milliseconds.
    memory
        Our peak of extra memory, in units of `memory_of`: "logits" (their bytes) or "peer" (its
        peak).
    """

    ratio: float | None = None
    added_us: float | None = None
    ours_ms: float | None = None
    memory: float | None = None
    memory_of: str = "logits"


NO_LIMIT = Limit()
IMPORT = Limit(added_us=30_000)
SLOPES = (0.95, 1.05)  # of log time against log size
SLOPES_FROM = 10**6  # logits

# Of random cases. What a call may take more whatever its size, in microseconds: a plain one
# forward, and any other.
ALLOWANCES = {"torch": (8, 14), "numpy": (6, 20), "jax": (10, 10), "tensorflow": (30, 30)}
GRID_FROM = 200_000  # logits, from which on
GRID_BARS = {"torch": 0.75, "numpy": 0.5, "jax": 1.0, "tensorflow": 0.8}  # hold for the mean
OVER, OVER_SHARE = 1.15, 0.02  # of the cases may be over that
WORST = 1.3  # and none over that


@dataclass(frozen=True)
class Row:
    """The limits of some cases; what is not named may be anything."""

    forward: Limit = NO_LIMIT
    both: Limit = NO_LIMIT
    kind: str = "time"
    framework: str | None = None
    mode: str | None = None
    peer: str | None = None
    dtype: str | None = None
    labels: str | None = None
    options: tuple[tuple[str, ...], ...] | None = None
    shapes: tuple[Shape, ...] | None = None

    def fits(self, case: Case) -> bool:
        """Whether the row is about this case."""
        names = ("kind", "framework", "mode", "peer", "dtype", "labels")
        return (
            all(getattr(self, name) in {None, getattr(case, name)} for name in names)
            and (self.options is None or case.options in self.options)
            and (self.shapes is None or case.shape in self.shapes)
        )


def _torch(
    forward: float,
    both: float,
    *shapes: Shape,
    memory: tuple[float | None, float | None] = (None, None),
    peer: str = "F.cross_entropy",
    labels: str = "index",
) -> Row:
    return Row(
        Limit(forward, memory=memory[0]),
        Limit(both, memory=memory[1]),
        framework="torch",
        mode="eager",
        peer=peer,
        labels=labels,
        options=((),),
        shapes=shapes,
    )


def _compiled(framework: str, mode: str, peer: str | None, memory: float | None) -> Row:
    limit = Limit(1.05, memory=memory, memory_of="peer")
    return Row(limit, limit, framework=framework, mode=mode, peer=peer)


def _numpy(peer: str, shape: Shape, forward: Limit, both: Limit = NO_LIMIT) -> Row:
    plain = ((),)
    return Row(forward, both, framework="numpy", peer=peer, options=plain, shapes=(shape,))


def _added(framework: str, microseconds: float) -> Row:
    limit = Limit(added_us=microseconds)
    return Row(limit, limit, kind="added", framework=framework)


def _linear(
    framework: str,
    forward: Limit,
    both: Limit,
    *,
    peer: str = TWO_STEPS,
    shapes: tuple[Shape, ...] = (TOKENS,),
    options: tuple[tuple[str, ...], ...] = ((),),
) -> Row:
    return Row(
        forward, both, "linear", framework=framework, peer=peer, options=options, shapes=shapes
    )


_WHOLE_WEIGHT = 0.375  # of one weight of `TOKENS`, in sizes of the logits
_OPTION = Limit(1.3)
_TRACING = Limit(3, ours_ms=300)

LIMITS = (
    _torch(0.22, 0.5, VOCABULARY, HUGE_VOCABULARY, memory=(0.1, 1.1)),
    _torch(0.2, 0.3, VOCABULARY, memory=(0.2, None), peer=FLOAT),
    _torch(0.25, 0.4, FEW_CLASSES),
    _torch(1.0, 1.0, MIDDLE),
    _torch(0.25, 0.55, LARGE),
    _torch(0.5, 0.65, IMAGES),
    _torch(0.5, 0.6, LARGE, labels="dense"),
    _compiled("torch", "compiled", None, memory=1.05),
    _compiled("jax", "compiled", "optax", memory=1.0),
    Row(Limit(0.1), Limit(0.2), framework="jax", mode="eager", peer="optax", shapes=(SMALLEST,)),
    Row(Limit(0.15), Limit(0.2), framework="jax", mode="eager", peer="optax", shapes=(VOCABULARY,)),
    Row(
        Limit(0.4),
        Limit(0.9),
        framework="tensorflow",
        mode="eager",
        peer="tf.nn",
        shapes=(VOCABULARY,),
    ),
    _compiled("tensorflow", "xla", "tf.nn", memory=None),
    _numpy("scipy", VOCABULARY, Limit(0.35, memory=0.05)),
    _numpy("F.cross_entropy", VOCABULARY, NO_LIMIT, Limit(0.7)),
    _numpy("scipy", FEW_CLASSES, Limit(0.2)),
    _numpy("F.cross_entropy", FEW_CLASSES, Limit(0.5)),
    _numpy("scikit-learn", MIDDLE, Limit(0.1)),
    _added("torch", 6),
    _added("numpy", 6),
    _added("tensorflow", 30),
    Row(_OPTION, _OPTION, kind="option", options=tuple((option,) for option in OPTIONS)),
    Row(_TRACING, _TRACING, kind="tracing"),
    # Memory is what a call takes beside its gradients.
    _linear("torch", Limit(0.85, memory=0.25), Limit(0.95, memory=0.25)),
    _linear("torch", NO_LIMIT, Limit(1.15), options=((EACH,),)),
    _linear("torch", NO_LIMIT, Limit(0.65), peer=TORCH_LINEAR),
    _linear("torch", NO_LIMIT, Limit(memory=0.14), shapes=(HUGE_TOKENS,)),
    _linear("torch", NO_LIMIT, Limit(0.6), peer=PLAIN, options=((HALF,),)),
    _linear("numpy", NO_LIMIT, Limit(0.6), peer=PLAIN, options=((HALF,),)),
    _linear("numpy", Limit(0.6, memory=0.35), Limit(1.0, memory=0.35)),
    _linear("jax", Limit(0.85, memory=0.15), Limit(1.15, memory=0.15)),
    _linear(
        "tensorflow",
        Limit(0.95, memory=0.35 + _WHOLE_WEIGHT),
        Limit(1.45, memory=0.35 + _WHOLE_WEIGHT),
    ),
    *(
        _linear(name, Limit(added_us=10), Limit(added_us=10), shapes=((64, 100),))
        for name in ("numpy", "torch")
    ),
)


def limit_of(case: Case, *, busy: bool = False) -> Limit:
    """The limit of a case: of the first row that fits it.

    On a busy machine nothing may take over 1.1 times its peer's time, and what is ahead of it on
    a quiet one has to stay ahead where the logits are many.

    Examples
    --------
    >>> limit_of(Case("time", "torch", (16384, 1000), "F.cross_entropy")).ratio
    0.25
    >>> limit_of(Case("time", "torch", (16384, 1000), "F.cross_entropy"), busy=True).ratio
    1.0
    """
    found = (row for row in LIMITS if row.fits(case))
    row = next(found, None)
    quiet = NO_LIMIT if row is None else {FORWARD: row.forward, BOTH: row.both}[case.direction]
    if not busy or case.kind != "time":
        return quiet
    ahead = quiet.ratio is not None and quiet.ratio < 1 and case.size >= LARGE_FROM
    return quiet._replace(ratio=1.0 if ahead else 1.1)
