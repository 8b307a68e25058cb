"""The few array functions that the arithmetic of `_statistics` needs; one object per library."""

from typing import Any, ClassVar, NamedTuple, Protocol

from unified_loss._types import Array, Plan, Shape

INFINITY = float("inf")


class Factors(NamedTuple):
    """The factors f = x - m of a row, as the statistics see them."""

    x: Array
    m: Array  # a constant to autodiff
    dead: Array | None  # rows that do not count and are not finite: they have no slope
    dropped: Array | None  # rows that do not count
    f: Array | None  # x - m, with 0 in dead rows; None where the exponentials alone need it


class Ops(Protocol):
    """Reductions and gathers along an axis keep it at size 1."""

    # As XLA's on a processor do, of rows that are shared out to threads.
    maxima_lose_nan: ClassVar[bool] = False

    def cast(self, x: Array, dtype: str) -> Array:
        """`x` as an array of `dtype`."""

    def cast_size(self, size: Any, dtype: str) -> Any:
        """A size as a number to compute with."""

    def as_index(self, x: Array) -> Array:
        """Class ids in the integer dtype that gathers take."""

    def equals(self, labels: Array, value: int) -> Array:
        """Where integers equal a value that their dtype can hold."""

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        """Choose between two operands, one of which may be a Python scalar."""

    def isfinite(self, x: Array) -> Array:
        """Whether neither infinite nor NaN."""

    def sum(self, x: Array, axis: int) -> Array:
        """Sum over an axis."""

    def max(self, x: Array, axis: int) -> Array:
        """Maximum over an axis; NaN where the row holds one."""

    def any(self, x: Array, axis: int) -> Array:
        """Whether any entry along an axis is true, or a number but 0."""

    def total(self, x: Array) -> Array:
        """Sum of all entries, as a 0-d array."""

    def number(self, x: Array) -> Array:
        """Number of true entries, as a 0-d integer array."""

    def count(self, x: Array, dtype: str) -> Array:
        """The same number as a 0-d array of `dtype`."""

    def count_rows(self, logits: Array, axis: int, dtype: str) -> Any:
        """Number of rows along `axis`: an int, or a 0-d array of `dtype` where it is unknown."""

    def size(self, x: Array, axis: int) -> Any:
        """Size of an axis: an int, a symbolic size or a 0-d integer array."""

    def stop_gradient(self, x: Array) -> Array:
        """`x` as a constant to autodiff; `x` itself where it is known to be one."""

    def expand(self, x: Array, axis: int) -> Array:
        """Insert an axis of size 1 where the class axis belongs."""

    def squeeze(self, x: Array, axis: int) -> Array:
        """Remove an axis of size 1."""

    def along(self, vector: Array, like: Array, axis: int) -> Array:
        """A vector laid along one axis of the rank of `like`."""

    def extend(self, weights: Array, like: Array, axis: int) -> Array:
        """Weights of the batch or of its first axis for every row of `like` along `axis`."""

    def pick_class(self, weights: Array, ids: Array) -> Array:
        """The weight of each class id."""

    def exp(self, x: Array) -> Array:
        """Exponential."""

    def pick(self, x: Array, ids: Array, axis: int) -> Array:
        """The entry of `x` at `ids` along `axis`."""

    def weighted_sum(
        self, weights: Array, factors: Factors, silent: Array | None, axis: int
    ) -> Array:
        """Sum of weights times factors; a -inf counts as 0 where its weight is 0.

        The sum counts as 0 in rows that are silent, if it is not finite.
        """


class KernelOps(Ops, Protocol):
    """What the common kernel needs beside them."""

    # Whether derivatives are right whatever m is in rows that do not count, so that it needs no
    # choice in front of the sums.
    derivatives_mend: ClassVar[bool] = False
    # Whether blocks are looked at, since a value waits for no device.
    reads_values: ClassVar[bool] = True

    def cast_like(self, x: Array, like: Array) -> Array:
        """`x` as an array of the dtype of `like`."""

    def log(self, x: Array) -> Array:
        """Natural logarithm."""

    def differences(self, factors: Factors) -> Array:
        """The factors as an array, with 0 in dead rows."""
        x, m, dead, _, f = factors
        if f is not None:
            return f
        return x - m if dead is None else self.where(dead, 0.0, x - m)

    def log_sum_exp(self, factors: Factors, axis: int) -> Array:
        """Logarithm of the sum of their exponentials; anything in dead rows. `f` is given away."""

    def weighted_sum(
        self, weights: Array, factors: Factors, silent: Array | None, axis: int
    ) -> Array:
        f = factors.f
        nothing = weights == 0 if silent is None else silent | (weights == 0)
        found = self.sum(weights * self.where(nothing & (f == -INFINITY), 0.0, f), axis)
        return found if silent is None else self.where(silent & ~self.isfinite(found), 0.0, found)

    def scaled(self, x: Array, a: Array) -> Array:
        """`x`, which the caller made and gives away, times one number a row."""

    def subtracted(self, x: Array, b: Array) -> Array:
        """`x`, which the caller made and gives away, less an array that is no larger."""
        return x - b

    def subtract_at(self, x: Array, ids: Array, b: Array, axis: int) -> Array:
        """`x`, which the caller made and gives away, less `b` at `ids` along `axis`."""


class LinearOps(KernelOps, Protocol):
    """What the linear form needs beside them."""

    def tanh(self, x: Array) -> Array:
        """Hyperbolic tangent."""

    def affine(self, hidden: Array, weight: Array, bias: Array | None) -> Array:
        """Hidden states (..., D) times the rows of a weight (C, D), and a bias: (..., C)."""

    def product(self, a: Array, b: Array) -> Array:
        """The product of two matrices."""

    def transposed(self, x: Array) -> Array:
        """A matrix with its axes exchanged."""

    def as_matrix(self, x: Array) -> Array:
        """`x` with all axes but the last one made one."""

    def reshape_like(self, x: Array, like: Array) -> Array:
        """`x` in the shape of `like`."""

    def sum_of_rows(self, x: Array) -> Array:
        """The sum of the rows of a matrix, as a vector."""

    def hollow(self, plan: Plan, hidden: Array, weight: Array) -> Array:
        """Something that has the shape of the logits, and no more: its values are not asked for."""

    def reshaped(self, x: Array, shape: Shape) -> Array:
        """`x` in another shape."""

    def concatenated(self, parts: list[Array]) -> Array:
        """Arrays one below the other."""

    def exponential(self, x: Array) -> Array:
        """The exponential of `x`, which is given away."""
        return self.exp(x)
