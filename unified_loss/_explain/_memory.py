"""How much memory a loss takes beside its arguments: an estimate from the plan."""

import math
from typing import NamedTuple

from unified_loss._backend import Route
from unified_loss._shapes import without
from unified_loss._types import Plan, Problem

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
NUMBERS_PER_EXAMPLE = 6  # its label made safe, its statistics and its loss


class Memory(NamedTuple):
    """An estimate of the most that a loss takes beside its arguments, without a gradient."""

    size: int  # in bytes
    sentence: str
    gradient: int  # in bytes: one array like the logits


def memory_of(problem: Problem, plan: Plan, route: Route) -> Memory | None:
    """The estimate for a route; None where a size is unknown."""
    shape = problem.logits.shape
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    elements, width = math.prod(shape), BYTES[plan.compute_dtype]
    statistics = NUMBERS_PER_EXAMPLE * math.prod(without(shape, plan.axis)) * width
    gradient = elements * BYTES[plan.logits_dtype]
    if route.is_fused:  # pragma: no cover (see `make test-fused`)
        return Memory(statistics, "a few numbers an example", gradient)
    # x - max x and exp(x - max x); label rows, and their products; half precision is cast first.
    arrays = 2 + 2 * (plan.label_kind == "dense") + (plan.logits_dtype != plan.compute_dtype)
    walk = route.walk
    if walk is None or walk.size > elements:
        arrays += 0 if plan.label_kind == "index" else 1 + plan.class_weight
        size, where = elements, "of the logits' size"
    else:
        arrays += walk.transposed + (plan.label_kind == "dense" and plan.class_weight)
        threads = min(walk.threads, -(-elements // walk.size))
        shared = f" in each of {threads} threads" if threads > 1 else ""
        size, where = threads * walk.size, f"of {walk.size:,} logits{shared}"
    sentence = f"{arrays} {plan.compute_dtype} arrays {where}, and a few numbers an example"
    return Memory(arrays * size * width + statistics, sentence, gradient)


def shown_bytes(size: int) -> str:
    """A number of bytes as people write it."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if size >= 1000**power:
            return f"{float(f'{size / 1000**power:.3g}'):g} {unit}"
    return f"{size} bytes"
