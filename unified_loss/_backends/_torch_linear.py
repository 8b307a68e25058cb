"""The linear form on PyTorch."""

from typing import Any

import torch

from unified_loss._backend import Backend
from unified_loss._backends._torch_ops import GRAPH_OPS, OPS
from unified_loss._linear import _two_steps as two_steps
from unified_loss._statistics import loss_and_gradient_of, loss_of
from unified_loss._types import Array, Form, Head, Operands


def loss(backend: Backend, form: Form, head: Head, operands: Operands) -> Array:
    """The loss, differentiable."""
    with torch.autocast(head.hidden.device.type, enabled=False):
        form, x = _logits(backend, form, head, operands)
        return backend.loss(form.plan, operands._replace(logits=x))


def loss_and_gradients(
    backend: Backend, form: Form, head: Head, operands: Operands
) -> tuple[Array, Head]:
    """The loss, and the gradients of its sum."""
    with torch.autocast(head.hidden.device.type, enabled=False):
        form, x = _logits(backend, form, head, operands)
        value, slope = backend.loss_and_gradient(form.plan, operands._replace(logits=x))
        return value, two_steps.gradients_of(OPS, form, head, operands, x, slope)


def traced_loss(run: Any, form: Form, head: Head, operands: Operands) -> Array:
    """The loss, for a graph."""
    with torch.autocast(head.hidden.device.type, enabled=False):
        x = two_steps.logits_of(GRAPH_OPS, form, head, operands)
        return run(loss_of, GRAPH_OPS, form.plan, operands._replace(logits=x))


def traced_loss_and_gradients(
    run: Any, form: Form, head: Head, operands: Operands
) -> tuple[Array, Head]:
    """The loss and the gradients of its sum, for a graph."""
    with torch.autocast(head.hidden.device.type, enabled=False):
        x = two_steps.logits_of(GRAPH_OPS, form, head, operands)
        value, slope = run(loss_and_gradient_of, GRAPH_OPS, form.plan, operands._replace(logits=x))
        return value, two_steps.gradients_of(GRAPH_OPS, form, head, operands, x, slope)


def _logits(backend: Backend, form: Form, head: Head, operands: Operands) -> tuple[Form, Array]:
    """The logits, and the form of a call that is ordinary if they are."""
    x = two_steps.logits_of(OPS, form, head, operands)
    is_ordinary = form.plan.is_ordinary and backend.outline(x, *operands[1:4]) is not None
    return form._replace(plan=form.plan._replace(is_ordinary=is_ordinary)), x
