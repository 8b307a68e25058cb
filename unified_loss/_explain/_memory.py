"""How much memory a loss takes beside its arguments: an estimate from the plan."""

import math
from typing import NamedTuple

from unified_loss._types import Plan, Problem

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
NUMBERS_PER_EXAMPLE = 6  # its label made safe, its statistics and its loss


class Memory(NamedTuple):
    """An estimate of the most that a loss takes beside its arguments, without a gradient."""

    size: int  # in bytes
    sentence: str
    gradient: int  # in bytes: one array like the logits


def memory_of(problem: Problem, plan: Plan) -> Memory | None:
    """The estimate; None where a size is unknown."""
    shape = problem.logits.shape
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    elements, width = math.prod(shape), BYTES[plan.compute_dtype]
    statistics = NUMBERS_PER_EXAMPLE * (elements // shape[plan.axis]) * width
    # f = x - max x and exp f, or f and what label rows make of it; half precision is cast first.
    arrays = (2 if plan.label_kind == "index" else 3) + (plan.logits_dtype != plan.compute_dtype)
    rows = 0 if plan.label_kind == "index" else 1 + plan.class_weight  # cast, and weighted
    block = _numpy_block(plan, elements) if problem.logits.library == "numpy" else None
    if block is None:
        size = (arrays + rows) * elements * width
        sentence = f"{arrays + rows} {plan.compute_dtype} arrays of the logits' size"
    else:
        arrays += block.copies
        size = arrays * block.logits * width + rows * elements * width
        sentence = f"{arrays} {plan.compute_dtype} arrays {block.where}"
        if rows:
            size += elements  # a mask of labels that are 0
            sentence = f"the label rows in {plan.compute_dtype} and a mask of them, {sentence}"
    sentence += ", and a few numbers an example"
    return Memory(size + statistics, sentence, elements * BYTES[plan.logits_dtype])


class _Block(NamedTuple):
    """How much of the logits is worked on at once, if not all."""

    logits: int
    where: str
    copies: int


def _numpy_block(plan: Plan, elements: int) -> _Block | None:
    from unified_loss._backends.numpy import walk
    from unified_loss._threads import number_of_threads

    way = walk(plan, elements)
    if way is None:
        return None
    threads = min(number_of_threads(), -(-elements // way.size)) if way.parallel else 1
    shared = f" in each of {threads} threads" if threads > 1 else ""
    return _Block(threads * way.size, f"of {way.size:,} logits{shared}", int(way.turned))


def shown_bytes(size: int) -> str:
    """A number of bytes as people write it."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if size >= 1000**power:
            return f"{float(f'{size / 1000**power:.3g}'):g} {unit}"
    return f"{size} bytes"
