"""What is measured, as data: every case, and the limit that it has to keep."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Shape = tuple[int, ...]

OURS = "unified_loss"
PLAIN = "unified_loss without options"
COPY = "copy of the logits"
COMPILED = "compiled F.cross_entropy"
LIGER = "Liger"
TWO_STEPS = "logits in two steps"
TORCH_LINEAR = "F.linear_cross_entropy"

SMALLEST: Shape = (128, 10)
FEW_CLASSES: Shape = (65536, 10)
MIDDLE: Shape = (1024, 1000)
LARGE: Shape = (16384, 1000)
VOCABULARY: Shape = (4096, 32000)
HUGE_VOCABULARY: Shape = (512, 128256)
IMAGES: Shape = (8, 21, 256, 256)
SEQUENCES: Shape = (16, 512, 5000)
TOKENS: Shape = (2048, 32000)  # of hidden states with 768 features
HUGE_TOKENS: Shape = (4096, 128256)  # with 512

SHAPES = (
    SMALLEST,
    FEW_CLASSES,
    MIDDLE,
    LARGE,
    VOCABULARY,
    HUGE_VOCABULARY,
    IMAGES,
    SEQUENCES,
)
WITH_MEMORY = (LARGE, VOCABULARY, HUGE_VOCABULARY)
LARGE_FROM = 10**7  # logits

OPTIONS = ("class_weight", "label_smoothing", "z_loss", "ignored", "sample_weight")
COMBINED = ("class_weight", "label_smoothing", "ignored")
HALF, EACH = "half_ignored", "none"  # of the linear form alone
DIRECTIONS = ("forward", "forward+backward")
FORWARD, BOTH = DIRECTIONS

# In which process each peer runs; those that are not here run beside the loss they compare with.
HOMES = {
    "F.cross_entropy": "torch",
    "F.cross_entropy(x.float())": "torch",
    COMPILED: "torch",
    LIGER: "torch",
    "scipy": "numpy",
    "scikit-learn": "numpy",
    "hand-written": "numpy",
    "optax": "jax",
    "tf.nn": "tensorflow",
    "keras": "tensorflow",
    "mlx": "mlx",
    "cupyx": "cupy",
}
NATIVE = {
    "numpy": "scipy",
    "torch": "F.cross_entropy",
    "jax": "optax",
    "tensorflow": "tf.nn",
    "mlx": "mlx",
    "cupy": "cupyx",
}
ON_ACCELERATORS = ("torch", "jax", "cupy")
PACKAGES = {LIGER: "liger_kernel"}  # what a peer needs beside its framework


class Case(NamedTuple):
    """One loss against one peer."""

    kind: str  # "time", "added", "option", "tracing", "scaling", "grid", "device", "linear"
    framework: str
    shape: Shape
    peer: str
    mode: str = "eager"
    direction: str = FORWARD
    dtype: str = "float32"
    labels: str = "index"
    options: tuple[str, ...] = ()
    memory: bool = False
    layout: str = "contiguous"  # of the logits; or "sliced", "transposed"
    features: int = 0  # of the hidden states that the logits are made of; 0: logits are given

    @property
    def axis(self) -> int:
        """The class axis of the logits: the first after the batch in images, else the last."""
        return 1 if len(self.shape) == len(IMAGES) else -1

    @property
    def transposed_to(self) -> int:
        """Where the class axis of transposed logits is in memory: at the other end."""
        return 0 if self.axis == -1 else -1

    @property
    def num_classes(self) -> int:
        """The size of the class axis."""
        return self.shape[self.axis]

    @property
    def batch(self) -> Shape:
        """The shape without the class axis."""
        axis = self.axis % len(self.shape)
        return self.shape[:axis] + self.shape[axis + 1 :]

    @property
    def size(self) -> int:
        """The number of logits."""
        return math.prod(self.shape)

    @property
    def logits_bytes(self) -> int:
        """The memory of the logits."""
        return self.size * (2 if self.dtype == "bfloat16" else 4)

    @property
    def result_bytes(self) -> int:
        """The memory of the gradients in hidden states and weight, which any way must have."""
        rows, classes = math.prod(self.batch), self.num_classes
        return 4 * self.features * (rows + classes) if self.direction == BOTH else 0

    @property
    def moved_bytes(self) -> int:
        """What has to be moved at the least: the arguments in, and the gradient out."""
        ids = math.prod(self.batch) * (4 if self.framework == "jax" else 8)  # as people have them
        labels = 4 * self.size if self.labels == "dense" else ids
        return labels + self.logits_bytes * (2 if self.direction == BOTH else 1)

    @property
    def data(self) -> "Case":
        """What cases that can share their arguments have in common."""
        return self._replace(kind="", peer="", mode="", memory=False)

    @property
    def name(self) -> str:
        """All that tells it from the others, to select it by."""
        shape = "x".join(map(str, self.shape))
        words = (self.kind, self.framework, self.mode, self.direction, shape, self.dtype)
        layout = () if self.layout == "contiguous" else (self.layout,)
        made_of = (f"{self.features} features",) if self.features else ()
        return " ".join((*words, *layout, *made_of, self.labels, *self.options, "vs", self.peer))

    def home(self, loss: str) -> str:
        """The framework whose process runs one of the two losses."""
        return self.framework if loss in {OURS, PLAIN} else HOMES.get(loss, self.framework)

    def small(self) -> "Case":
        """The same on a handful of examples."""
        sizes = (3, 4) if len(self.shape) == 2 else (2, 3, 4, 5)[: len(self.shape)]
        return self._replace(shape=sizes)


@dataclass(frozen=True)
class Grid:
    """All combinations of some choices."""

    framework: str
    shapes: tuple[Shape, ...]
    peer: str
    kind: str = "time"
    modes: tuple[str, ...] = ("eager",)
    directions: tuple[str, ...] = DIRECTIONS
    dtype: str = "float32"
    labels: tuple[str, ...] = ("index",)
    options: tuple[tuple[str, ...], ...] = ((),)
    memory: tuple[Shape, ...] = field(default=())

    def cases(self) -> Iterator[Case]:
        """Each combination once."""
        choices = (self.shapes, self.modes, self.directions, self.labels, self.options)
        for shape, mode, direction, labels, options in itertools.product(*choices):
            yield Case(
                kind=self.kind,
                framework=self.framework,
                shape=shape,
                peer=self.peer,
                mode=mode,
                direction=direction,
                dtype=self.dtype,
                labels=labels,
                options=options,
                memory=shape in self.memory,
            )


FLOAT = "F.cross_entropy(x.float())"
# How each framework runs its losses where speed counts.
FASTEST = {"numpy": "eager", "torch": "eager", "jax": "compiled", "tensorflow": "xla"}
WITH_OPTIONS = {
    "numpy": (MIDDLE, LARGE),
    "torch": (MIDDLE, LARGE),
    "jax": (LARGE,),
    "tensorflow": (LARGE,),
}
TRACED = {"torch": ("static", "dynamic"), "jax": ("compiled",), "tensorflow": ("compiled",)}
# Up to how many logits the scaling is followed.
LARGEST = {"numpy": 10**9, "torch": 10**9, "jax": 10**8, "tensorflow": 10**8}
CHOSEN = (SMALLEST, MIDDLE, LARGE, VOCABULARY)

GRIDS = (
    # NumPy: the loss alone against recipes in NumPy, both against torch on the same cores.
    Grid("numpy", SHAPES, "scipy", directions=(FORWARD,), memory=WITH_MEMORY),
    Grid("numpy", SHAPES, "F.cross_entropy", memory=(VOCABULARY,)),
    Grid("numpy", (LARGE,), "F.cross_entropy", options=(COMBINED,)),
    Grid("numpy", (LARGE,), "scipy", directions=(FORWARD,), labels=("dense",)),
    Grid("numpy", (FEW_CLASSES, MIDDLE), "scikit-learn", directions=(FORWARD,)),
    Grid("numpy", (SMALLEST, LARGE), "eagerpy", directions=(FORWARD,)),
    Grid("numpy", (SMALLEST,), "hand-written", "added", directions=(FORWARD,)),
    # PyTorch
    Grid("torch", SHAPES, "F.cross_entropy", memory=WITH_MEMORY),
    Grid("torch", (MIDDLE, LARGE, VOCABULARY), FLOAT, dtype="bfloat16", memory=(VOCABULARY,)),
    Grid("torch", (FEW_CLASSES, LARGE, IMAGES), "F.cross_entropy", labels=("dense",)),
    Grid("torch", (FEW_CLASSES, LARGE, IMAGES), "F.cross_entropy", options=(COMBINED,)),
    Grid("torch", (SMALLEST, LARGE), "eagerpy"),
    Grid("torch", (SMALLEST,), "F.cross_entropy", "added"),
    Grid("torch", SHAPES, "F.cross_entropy", modes=("compiled",), memory=WITH_MEMORY),
    Grid("torch", (VOCABULARY,), FLOAT, modes=("compiled",), dtype="bfloat16"),
    Grid("torch", (LARGE,), "F.cross_entropy", modes=("compiled",), labels=("dense",)),
    Grid("torch", (LARGE,), "F.cross_entropy", modes=("compiled",), options=(COMBINED,)),
    # JAX
    Grid("jax", CHOSEN, "optax"),
    Grid("jax", SHAPES, "optax", modes=("compiled",), memory=WITH_MEMORY),
    Grid("jax", (LARGE, VOCABULARY), "optax", modes=("compiled",), dtype="bfloat16"),
    Grid("jax", (LARGE,), "optax", modes=("compiled",), labels=("dense",)),
    Grid("jax", (LARGE,), "optax", modes=("compiled",), options=(COMBINED,)),
    # TensorFlow
    Grid("tensorflow", (*CHOSEN, IMAGES), "tf.nn", memory=(VOCABULARY,)),
    Grid("tensorflow", (LARGE,), "tf.nn", labels=("dense",)),
    Grid("tensorflow", (SMALLEST, LARGE), "keras", modes=("eager", "compiled")),
    Grid("tensorflow", (SMALLEST,), "tf.nn", "added"),
    Grid("tensorflow", CHOSEN, "tf.nn", modes=("compiled",)),
    Grid("tensorflow", SHAPES, "tf.nn", modes=("xla",)),
    Grid("tensorflow", (VOCABULARY,), "tf.nn", modes=("xla",), dtype="bfloat16"),
    Grid("tensorflow", (LARGE,), "tf.nn", modes=("xla",), labels=("dense",)),
    Grid("tensorflow", (LARGE,), "tf.nn", modes=("xla",), options=(COMBINED,)),
    # MLX and CuPy
    Grid("mlx", (SMALLEST, MIDDLE, LARGE), "mlx", modes=("eager", "compiled")),
    Grid("cupy", SHAPES, "cupyx", directions=(FORWARD,), memory=WITH_MEMORY),
    # Options, one at a time
    *(
        Grid(framework, shapes, PLAIN, "option", (FASTEST[framework],), options=((option,),))
        for framework, shapes in WITH_OPTIONS.items()
        for option in OPTIONS
    ),
    # How long a compiler takes to read the loss and its gradient
    *(
        Grid(
            framework,
            ((64, 50),),
            NATIVE[framework],
            "tracing",
            modes,
            (BOTH,),
            labels=("index", "dense"),
            options=((), ("label_smoothing",)),
        )
        for framework, modes in TRACED.items()
    ),
)


def scaling() -> Iterator[Case]:
    """More and more examples of 1000 classes, more and more classes of 1000 examples."""
    for framework, largest in LARGEST.items():
        sizes = [10**power for power in range(4, 10) if 10**power <= largest]
        # The memory of what runs eagerly: compilers are followed in the other cases.
        is_eager = FASTEST[framework] == "eager"
        shapes = {(size // 1000, 1000): is_eager and size >= LARGE_FROM for size in sizes}
        shapes |= {(1000, size // 1000): False for size in sizes if size != 10**6}
        for (shape, memory), direction in itertools.product(shapes.items(), DIRECTIONS):
            if framework == "numpy" and direction == BOTH:
                peer = NATIVE["torch"]
            else:
                peer = NATIVE[framework]
            mode = FASTEST[framework]
            yield Case("scaling", framework, shape, peer, mode, direction, memory=memory)


def linear_cases() -> Iterator[Case]:
    """Hidden states and a weight, beside the same with logits between them."""

    def case(framework: str, peer: str = TWO_STEPS, mode: str = "eager", **more: Any) -> Case:
        given: dict[str, Any] = {"shape": TOKENS, "features": 768, **more}
        return Case("linear", framework, peer=peer, mode=mode, **given)

    modes = [("numpy", "eager"), ("torch", "eager"), ("jax", "compiled")]
    modes += [("tensorflow", "eager"), ("tensorflow", "compiled")]
    for (framework, mode), direction in itertools.product(modes, DIRECTIONS):
        yield case(framework, mode=mode, direction=direction, memory=True)
    for framework in ("numpy", "torch"):
        yield case(framework, PLAIN, direction=BOTH, options=(HALF,))
    yield case("torch", direction=BOTH, options=(EACH,))
    yield case("torch", TORCH_LINEAR, direction=BOTH)
    yield case("torch", shape=HUGE_TOKENS, features=512, direction=BOTH, memory=True)
    for framework in ("numpy", "torch"):
        for direction in DIRECTIONS:
            yield case(framework, shape=(64, 100), features=32, direction=direction)


# Two language models, few tokens of a large vocabulary, few classes, two classifiers, and images.
DEVICE_SHAPES: tuple[Shape, ...] = (
    (8192, 32000),
    (4096, 128256),
    (8, 262144),
    (10_000_000, 10),
    (1024, 1000),
    (128, 10),
    (8, 21, 512, 512),
)
MODELS = DEVICE_SHAPES[:2]


def device_cases() -> Iterator[Case]:
    """PyTorch on an accelerator: plain calls first, those that share arguments one by one."""
    calls = [
        Case("device", "torch", shape, peer, direction=direction, dtype=dtype, memory=True)
        for shape, (dtype, peer), direction in itertools.product(
            DEVICE_SHAPES, {"float32": "F.cross_entropy", "bfloat16": FLOAT}.items(), DIRECTIONS
        )
    ]
    for call in calls:
        yield call
        if call.dtype != "float32":
            yield call._replace(peer="F.cross_entropy")
        if call.shape in MODELS:
            yield call._replace(peer=COMPILED)
        if len(call.shape) == 2:
            yield call._replace(peer=LIGER)
    for call in calls:
        yield call._replace(options=COMBINED)
        yield call._replace(options=OPTIONS, peer=PLAIN)
        if call.shape not in MODELS[1:]:
            yield call._replace(labels="dense")


def all_cases(device: str = "cpu") -> tuple[Case, ...]:
    """Every case for a kind of device, in the order of measuring."""
    if device != "cpu":
        others = (case for case in all_cases() if case.framework != "torch")
        return (*device_cases(), *others)
    listed = itertools.chain.from_iterable(grid.cases() for grid in GRIDS)
    return (*listed, *scaling(), *linear_cases())


def is_quick(case: Case) -> bool:
    """Whether a case belongs to the selection that takes two minutes."""
    if case.kind == "linear":
        return False
    if case.kind == "scaling":
        return case.framework in {"numpy", "torch"} and case.size <= LARGE_FROM
    if case.kind == "option":
        return case.shape == MIDDLE and case.framework == "torch"
    if case.kind == "time" and (case.dtype != "float32" or case.labels == "dense" or case.options):
        return False
    costly = case.mode in {"compiled", "xla"} and case.shape not in {SMALLEST, MIDDLE}
    return case.size < VOCABULARY[0] * 8000 and not costly
