"""R28: from hidden, weight and bias to the spec of the logits that are never made."""

import math
from typing import Any

from unified_loss import _messages as messages
from unified_loss import _rules as rules
from unified_loss._types import Head, Problem, Same, Shape, Size, Spec
from unified_loss.exceptions import DTypeError, OptionError, ShapeError


def with_logits(problem: Problem) -> Problem:
    """The problem with the logits of its head; raises every error that the head can cause."""
    return problem._replace(logits=_spec_of_logits(problem.head, problem.labels, problem.same))


def _spec_of_logits(head: Head, labels: Spec, same: Same) -> Spec:
    hidden, weight, bias = head
    for name, part in head._asdict().items():
        if part is not None and part.dtype not in rules.FLOATING:
            raise DTypeError(messages.part_not_floating(name, part))
    if hidden.shape is not None and not hidden.shape:
        raise _refused(messages.no_features(), labels)
    if weight.shape is not None and len(weight.shape) != 2:
        raise _refused(messages.weight_not_a_matrix(weight), labels)
    classes, features = (None, None) if weight.shape is None else weight.shape
    if hidden.shape is not None and same(hidden.shape[-1], features) is False:
        raise _refused(messages.weight_shape(hidden, weight), labels)
    shape = None if hidden.shape is None else (*hidden.shape[:-1], classes)
    if bias is not None and bias.shape is not None and not _is_vector(bias, classes, same):
        raise _refused(messages.bias_shape(bias, classes), labels, shape)
    dtype = "float64" if "float64" in {hidden.dtype, weight.dtype} else "float32"
    return Spec(hidden.library, shape, dtype)


def softcap(value: Any, dtype: str) -> float | None:
    """R28: None, or a finite number > 0 that is one in the compute dtype as well."""
    if value is None:
        return None
    wanted = "a finite number > 0, or None"
    cap = rules.number("softcap", value, wanted)
    if not 0 < cap < math.inf:
        raise OptionError(messages.option("softcap", value, wanted))
    return rules.held("softcap", cap, dtype)


def _is_vector(bias: Spec, classes: Size, same: Same) -> bool:
    return len(bias.shape) == 1 and same(bias.shape[0], classes) is not False


def _refused(text: str, labels: Spec, logits_shape: Shape | None = None) -> ShapeError:
    return ShapeError(text).with_details(logits_shape=logits_shape, labels_shape=labels.shape)
