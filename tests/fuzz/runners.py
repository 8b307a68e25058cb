"""How each library runs a call: NumPy, the array API and Dask here, others beside."""

import contextlib
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tests.fuzz.calls import Call, Case, Form, is_floating
from tests.fuzz.draws import Ability
from tests.helpers.problems import Array
from unified_loss import cross_entropy, cross_entropy_with_grad

Results = dict[str, Array]  # "loss", and "d NAME" and "dd NAME" for each array
Run = Callable[[Case], Results]


class Transform(NamedTuple):
    """One way to run a call."""

    share: float = 1.0  # of the calls of its library
    draws: int = 4  # through one form: many, where a form costs a compilation
    is_unit: bool = False  # the loss is multiplied by nothing
    is_traced: bool = False  # label values cannot be read
    is_along: bool = False  # takes a direction, and gives derivatives along it
    is_forward: bool = False  # in forward mode
    small: bool = False  # for few logits alone
    logits_only: bool = False


class Runner:
    """A library under test; the attributes fit NumPy."""

    name = module = "numpy"
    share = 25.0  # of all calls, in relation to the others
    ability = Ability(
        ("float16", "bfloat16", "float32", "float64"),
        layouts=("plain", "plain", "reversed", "transposed", "repeated", "strided"),
        sizes=(*["usual"] * 6, "blocks"),
        has_autodiff=False,
    )
    transforms: ClassVar[dict[str, Transform]] = {
        "loss": Transform(is_unit=True),
        "with_grad": Transform(is_unit=True, share=2),
    }
    reads_labels = True

    def is_installed(self) -> bool:
        """Whether the library can be imported."""
        return importlib.util.find_spec(self.module.partition(".")[0]) is not None

    @property
    def library(self) -> Any:
        """The library."""
        return importlib.import_module(self.module)

    def fit(self, form: Form, transform: Transform) -> Form:
        """The form as a transform can take it."""
        if transform.logits_only:
            form = form._replace(wrt=("logits",))
        if transform.small and form.classes > 9:
            form = form._replace(classes=5, size="usual")
        if transform.small and (len(form.batch) > 2 or 0 in form.batch):
            form = form._replace(batch=(3,), class_axis=-1, axis=-1, first_axis=False)
        return form

    def asarray(self, values: Array) -> Any:
        """An array of the library, of the same dtype."""
        return values

    def to_numpy(self, array: Any) -> Array:
        """The values in float64."""
        return np.asarray(array).astype(np.float64)

    def place(self, call: Call, form: Form) -> dict[str, Any]:
        """The array arguments, on the host where the form says so."""
        return {
            name: values if name in form.on_host else self.asarray(values)
            for name, values in call.arrays.items()
        }

    def around(self, form: Form) -> contextlib.AbstractContextManager[Any]:
        """The settings that a form asks for."""
        return blocks_of("unified_loss._backends.numpy", NUMPY_BLOCKS, form)

    def prepare(self, form: Form, transform: str, call: Call) -> Run:
        """What runs one case of a form; `call` is one, for what it has and has not."""
        return getattr(self, f"run_{transform}")(form, call)

    def finish(self) -> None:
        """Forget what was compiled."""

    def run_loss(self, form: Form, call: Call) -> Run:
        """The loss alone."""
        options = call.options
        return lambda case: {
            "loss": self.to_numpy(cross_entropy(**self.place(case.call, form), **options))
        }

    def run_with_grad(self, form: Form, call: Call) -> Run:
        """The loss and its gradient in closed form."""
        options = call.options

        def run(case: Case) -> Results:
            arrays = self.place(case.call, form)
            loss, slope = cross_entropy_with_grad(**arrays, **options)
            return {"loss": self.to_numpy(loss), "d logits": self.to_numpy(slope)}

        return run

    def split(self, case: Case, form: Form) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arrays to differentiate in, and the others."""
        arrays = self.place(case.call, form)
        wrt = {name: arrays.pop(name) for name in form.wrt}
        return wrt, arrays

    def collected(self, loss: Any, *orders: dict[str, Any]) -> Results:
        """Loss, first and second derivatives under their names."""
        results = {"loss": self.to_numpy(loss)}
        for mark, slopes in zip(("d", "dd"), orders, strict=False):
            results |= {f"{mark} {name}": self.to_numpy(v) for name, v in slopes.items()}
        return results


NUMPY_BLOCKS = {"SHORT": 0, "SMALL": 40, "TRANSPOSED_BLOCK": 40, "BLOCK": 60, "PARALLEL": 400}


@contextlib.contextmanager
def blocks_of(module: str, sizes: dict[str, int], form: Form) -> Any:
    """Cut the blocks of a module small, if the form says so."""
    if form.size == "usual":
        yield
        return
    target = importlib.import_module(module)
    old = {name: getattr(target, name) for name in sizes}
    try:
        for name, size in sizes.items():
            setattr(target, name, size)
        yield
    finally:
        for name, size in old.items():
            setattr(target, name, size)


class Strict(Runner):
    """The array API, and nothing beside it."""

    name = module = "array_api_strict"
    share = 6.0
    ability = Ability(
        ("float32", "float64"),
        weights=("float32", "float32", "float64", "int32"),
        has_autodiff=False,
    )

    def asarray(self, values: Array) -> Any:
        """An array."""
        return self.library.asarray(np.ascontiguousarray(values).reshape(values.shape))

    def around(self, form: Form) -> contextlib.AbstractContextManager[Any]:
        """Nothing."""
        return contextlib.nullcontext()


class Dask(Strict):
    """Dask in one chunk, and in many along every axis."""

    name = "dask"
    module = "dask.array"
    share = 1.5
    ability = Ability(
        ("float16", "float32", "float64"),
        weights=("float32", "float32", "float64", "float16", "int32"),
        has_autodiff=False,
        large=False,
    )
    transforms: ClassVar[dict[str, Transform]] = {
        "loss": Transform(is_unit=True, is_traced=True),
        "with_grad": Transform(is_unit=True, is_traced=True),
        "chunked": Transform(is_unit=True, is_traced=True, share=2),
    }
    reads_labels = False
    chunk = -1

    def asarray(self, values: Array) -> Any:
        """An array in chunks."""
        chunks = tuple(max(1, min(self.chunk, n)) for n in values.shape) if self.chunk > 0 else -1
        return self.library.from_array(np.array(values), chunks=chunks)

    def to_numpy(self, array: Any) -> Array:
        """The computed values."""
        return np.asarray(array.compute(scheduler="synchronous")).astype(np.float64)

    def run_chunked(self, form: Form, call: Call) -> Run:
        """Loss and gradient of many chunks."""
        run = self.run_with_grad(form, call)

        def chunked(case: Case) -> Results:
            self.chunk = 2
            try:
                return run(case)
            finally:
                self.chunk = -1

        return chunked


def gradients_of(call: Call) -> list[str]:
    """The arrays that can have a gradient."""
    return [name for name, a in call.arrays.items() if name != "normalizer" and is_floating(a)]
