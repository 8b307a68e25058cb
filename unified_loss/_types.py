"""What travels from the call to the kernel, from `Spec` to `Operands`."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Array = Any
Size = Any  # an int, None where the size is unknown, or a framework's symbolic size
Shape = tuple[Size, ...]
Reduction = Literal["none", "mean", "sum"]
Check = Literal["auto"] | bool
LabelKind = Literal["index", "dense"]
Weighting = Literal["none", "mask", "weight"]
Same = Callable[[Size, Size], bool | None]


class Spec(NamedTuple):
    """What the rules may know of one argument: everything but its values."""

    library: str
    shape: Any  # a Shape; None: the rank is unknown
    dtype: str


class Options(NamedTuple):
    """The options of a call, as they were passed."""

    axis: Any
    ignore_index: Any
    label_smoothing: Any
    z_loss: Any
    reduction: Any
    check: Any
    class_group: Any = None


class Problem(NamedTuple):
    """One call without its values."""

    logits: Spec
    labels: Spec
    class_weight: Any  # a Spec or None, like the two below
    sample_weight: Any
    normalizer: Any
    options: Options
    same: Same
    head: Any = None  # the linear form: a `Head` of Specs, which the logits would be made of
    framework: str = ""  # in whose words to speak, if they are not those of the logits' library


class Plan(NamedTuple):
    """Everything that shapes, dtypes and options decide about a call."""

    axis: int  # counted from the front; from the back or the front where the rank is unknown
    ndim: int | None
    num_classes: Size
    label_kind: LabelKind
    labels_keep_axis: bool | None  # index labels have the class axis at size 1; None: unknown
    labels_dtype: str
    ignore_index: int | None  # None: no label can have the value
    below: bool  # can an index label be negative?
    above: bool  # can an index label reach the number of classes?
    class_weight: bool
    sample_weight: Weighting
    label_smoothing: float
    z_loss: float
    reduction: Reduction
    normalizer: bool
    check: Check
    compute_dtype: str
    logits_dtype: str
    is_bare: bool = False  # lse(x) - x_y, of labels seen to be class ids
    is_ordinary: bool = False  # all arrays have an outline (`Backend.outline`)
    device: Any = None  # where the arrays are (`Backend.device`)
    class_group: Any = None  # over whose members the classes are split (`Backend.group`)
    route: Any = None  # of a familiar call, where it does not change

    @property
    def labels_have_axis(self) -> bool:
        """Whether the labels have the class axis, whatever its size."""
        return self.label_kind == "dense" or bool(self.labels_keep_axis)

    @property
    def counts(self) -> bool:
        """Whether the total mass is a number of examples."""
        return not self.class_weight and self.sample_weight != "weight"

    def of_known_ids(self) -> "Plan":
        """The plan where all index labels are class ids or `ignore_index`."""
        return self._replace(below=False, above=False)

    def of_class_ids(self) -> "Plan":
        """The plan where all index labels are class ids, and none is to be ignored."""
        has_options = self.class_weight or self.label_smoothing or self.z_loss or self.normalizer
        return self._replace(
            ignore_index=None,
            below=False,
            above=False,
            is_bare=not has_options
            and self.sample_weight == "none"
            and self.compute_dtype == self.logits_dtype,
        )


class Operands(NamedTuple):
    """The arrays of a call, all of the logits' library and where the logits are."""

    logits: Array
    labels: Array
    class_weight: Array | None
    sample_weight: Array | None
    normalizer: Array | None


class Head(NamedTuple):
    """What the logits of the linear form are made of: arrays, or their `Spec`s."""

    hidden: Array
    weight: Array
    bias: Array | None


class Form(NamedTuple):
    """A call of the linear form without its arrays: the plan for the logits, and their cap."""

    plan: Plan
    softcap: float | None


class LinearGradients(NamedTuple):
    """The gradients of a linear cross-entropy.

    Attributes
    ----------
    hidden : array, shape (..., D)
        Of the shape, dtype and library of the hidden states.
    weight : array, shape (C, D)
        Of the weight.
    bias : array, shape (C,), or None
        Of the bias, if there is one.
    """

    hidden: Any
    weight: Any
    bias: Any
