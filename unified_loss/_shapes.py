"""Shapes: which are equal, which sizes fit, and which axes of the logits an operand runs along."""

from unified_loss._types import Operands, Plan, Same, Shape, Size

Axes = tuple[int | None, ...]  # of the logits; None: the operand has size 1 there


def same_size(a: Size, b: Size) -> bool | None:
    """Whether two sizes are equal, None where one is unknown."""
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return True if a == b else None  # symbolic: equal to itself, perhaps to others


def same_shape(a: Shape, b: Shape, same: Same) -> bool | None:
    """Whether two shapes are equal: True if provably, False if provably not, None otherwise."""
    if len(a) != len(b):
        return False
    verdict: bool | None = True
    for one, other in zip(a, b, strict=True):
        equal = same(one, other)
        if equal is False:
            return False
        if equal is None:
            verdict = None
    return verdict


def without(shape: Shape, axis: int) -> Shape:
    """`shape` without one axis."""
    return shape[:axis] + shape[axis + 1 :]


def kept(shape: Shape, axis: int) -> Shape:
    """`shape` with size 1 at one axis."""
    return (*shape[:axis], 1, *shape[axis + 1 :])


def fits_as_index(logits: Shape, labels: Shape, axis: int, same: Same) -> bool | None:
    """Whether labels of this shape can be index labels for classes along `axis`."""
    if len(labels) == len(logits):
        return same_shape(labels, kept(logits, axis), same)
    return same_shape(labels, without(logits, axis), same)


def fits(logits: Shape, labels: Shape, axis: int, same: Same) -> bool | None:
    """Whether labels of this shape can be labels of either kind for classes along `axis`."""
    as_index = fits_as_index(logits, labels, axis, same)
    if as_index is True:
        return True
    as_dense = same_shape(labels, logits, same)
    return as_index if as_dense is False else as_dense


def operand_axes(plan: Plan, operands: Operands) -> Operands:
    """Of each operand the axes of the logits that its own run along, in place of the operand."""
    every: Axes = tuple(range(len(operands.logits.shape)))
    batch = without(every, plan.axis)
    labels = every if plan.label_kind == "dense" else batch
    if plan.labels_keep_axis:
        labels = tuple(None if axis == plan.axis else axis for axis in every)
    weight = operands.sample_weight
    return Operands(
        every,
        labels,
        class_weight=None if operands.class_weight is None else (plan.axis,),
        sample_weight=None if weight is None else batch[: len(weight.shape)],
        normalizer=None if operands.normalizer is None else (),
    )


def sizes_along(axes: Axes, shape: Shape) -> Shape:
    """The shape of an operand that runs along `axes` of logits of this shape."""
    return tuple(1 if axis is None else shape[axis] for axis in axes)
