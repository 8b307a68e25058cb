"""What a backend is: the base class, with what most libraries have in common."""

from collections.abc import Callable
from typing import Any, NamedTuple

from unified_loss import _shapes as shapes
from unified_loss._types import Array, Form, Head, Operands, Plan, Size, Spec


class Route(NamedTuple):
    """Which kernel serves a call."""

    name: str  # for people
    is_native: bool = False  # the library's own loss, if it proves that nothing needed care
    walk: Any = None  # through blocks
    is_fused: bool = False  # nothing is made but a few numbers an example
    kernels: Any = None  # of the library's own kind, that serve the call alone


class WrongIds(Exception):  # noqa: N818 (it never leaves the package)
    """A kernel has found class ids out of range, which nobody had looked at."""


class LinearRoute(NamedTuple):
    """How a call of the linear form goes, for the loss alone and with the gradients."""

    alone: Any = None  # a `Tour`; None: in two steps, the logits and their loss
    with_gradients: Any = None
    tiles: tuple[int, int] = (1, 1)  # how many arrays of a tile's size are held at once
    casts_all: bool = False  # half precision at once, and not tile by tile
    keeps_weight: bool = False  # another array of the weight's size is held with the gradients
    is_lazy: bool = False  # two steps are done chunk by chunk


class Backend:
    """One library. It holds no state; `BACKEND` of a file of `_backends` is the only instance."""

    name: str

    def owns(self, value: object) -> bool:
        """Whether `value` is an array of this library."""
        raise NotImplementedError

    def spec(self, array: Array) -> Spec:
        """Shape and dtype of an array of this library."""
        raise NotImplementedError

    def refusal(self, array: Array) -> str | None:
        """Why an array of this library cannot be used (sparse, ragged, ...), if so."""
        return None

    def combinable(self, logits: Array, other: Array) -> str | None:
        """Why `other` cannot be combined with `logits` as they are placed, or None."""
        return None

    def convert(self, name: str) -> str:
        """Code that converts the argument `name` to this library, from any other."""
        raise NotImplementedError

    def move(self, name: str) -> str:
        """Code that moves the argument `name` to where the logits are."""
        return self.convert(name)

    def group(self, group: Any) -> Any:
        """What the plan knows a `class_group` by, hashable; `OptionError` if it is none."""
        raise NotImplementedError

    def same_size(self, a: Size, b: Size) -> bool | None:
        """Whether two sizes are equal; None where that is unknown. Must add no guard."""
        return shapes.same_size(a, b)

    def outline(self, *arrays: Array | None) -> Any:
        """All that the rules may know of logits, labels and weights, hashable.

        None: an array is of another kind, or the call is traced. So are all calls of a library
        that has no outlines; the rules then look at each of them.
        """
        return None

    def device(self, logits: Array) -> Any:
        """Where the logits are, if the route of a call asks for that; None: on the processor."""
        return None

    def values(self, labels: Array) -> Any | None:
        """The values of labels that have an outline, as a NumPy array.

        None: reading them would wait for an accelerator.
        """
        return self.read(labels, wait=False)

    def read(self, array: Array, *, wait: bool) -> Any | None:
        """The values as a NumPy array, None where none exist yet.

        Without `wait`, None also where reading them would wait for an accelerator.
        """
        raise NotImplementedError

    def from_host(self, values: Any, logits: Array, dtype: str) -> Array:
        """A NumPy array moved to the library and device of `logits`."""
        raise NotImplementedError

    def in_graph(self) -> Callable[..., Any] | None:
        """What stands for a call in the graph of a compiler that interprets Python.

        It takes the name of a kernel and the arguments of `prepare`. None: no such compiler is
        at work.
        """
        return None

    def linear_in_graph(self) -> Callable[..., Any] | None:
        """The same for the linear form: it takes the arguments of its own `prepare`."""
        return None

    def route(self, plan: Plan, size: int) -> Route:
        """The kernel that serves a loss of `size` logits."""
        raise NotImplementedError

    def finds_wrong_ids(self, plan: Plan) -> bool:
        """Whether the native loss of a plan raises `WrongIds` where ids are out of range.

        Nobody has to look at the labels before it then.
        """
        return False

    def loss(self, plan: Plan, operands: Operands) -> Array:
        """The loss."""
        raise NotImplementedError

    def loss_and_gradient(self, plan: Plan, operands: Operands) -> tuple[Array, Array]:
        """The loss and the gradient of its sum with respect to the logits."""
        raise NotImplementedError

    def linear_route(self, form: Form, head: Head) -> LinearRoute:
        """How a call of the linear form goes, by the `Spec`s of its head, of known sizes."""
        return LinearRoute()

    def linear_loss(self, form: Form, head: Head, operands: Operands) -> Array:
        """The loss of the linear form; the operands have no logits."""
        raise NotImplementedError

    def linear_loss_and_gradients(
        self, form: Form, head: Head, operands: Operands
    ) -> tuple[Array, Head]:
        """The loss, and the gradients of its sum with respect to hidden, weight and bias."""
        raise NotImplementedError

    def linear_sums(self, form: Form, head: Head, operands: Operands) -> tuple[Array, ...]:
        """What `Totals` holds of the linear form, as 0-d arrays."""
        raise NotImplementedError

    def linear_deliver(self, form: Form, head: Head, operands: Operands) -> Any | None:
        """The same sums as a list of numbers, or what `send` makes of them."""
        return self.send(self.linear_sums(form, head, operands))

    def sums(self, plan: Plan, operands: Operands) -> tuple[Array, ...]:
        """What `Totals` holds, as 0-d arrays."""
        raise NotImplementedError

    def deliver(self, plan: Plan, operands: Operands) -> Any | None:
        """The same sums as a list of numbers, or what `send` makes of them."""
        return self.send(self.sums(plan, operands))

    def send(self, numbers: tuple[Array, ...]) -> Any | None:
        """0-d arrays on their way to the host, which nobody waits for; None while tracing."""
        return numbers

    def has_arrived(self, sent: Any) -> bool | None:
        """Whether `receive` would not wait for an accelerator; None where nobody can tell."""
        return True

    def receive(self, sent: list[Any]) -> list[list[float]]:
        """The numbers of all that was sent, which may have to be waited for."""

        def value(number: Array) -> Any:
            found: Any = self.read(number, wait=True)
            return found.item()

        return [list(map(value, each)) for each in sent]
