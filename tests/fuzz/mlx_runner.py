"""MLX: gradients, second derivatives, forward mode and `vmap`."""

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from tests.fuzz.calls import Call, Case, Form
from tests.fuzz.draws import Ability
from tests.fuzz.runners import Results, Run, Runner, Transform
from tests.helpers.problems import Array
from unified_loss import cross_entropy


class Mlx(Runner):
    """MLX on the processor."""

    name = "mlx"
    module = "mlx.core"
    share = 7.0
    ability = Ability(
        ("float16", "bfloat16", "float32"),
        weights=("float32", "float32", "float16", "bfloat16", "int32"),
    )
    transforms: ClassVar[dict[str, Transform]] = {
        "loss": Transform(is_unit=True, is_traced=True),
        "with_grad": Transform(is_unit=True, is_traced=True),
        "grad": Transform(share=2, is_traced=True),
        "twice": Transform(is_along=True, share=2, is_traced=True),
        "forward": Transform(is_along=True, is_traced=True),
        # There, MLX's selection multiplies its slope by 0, which keeps NaN (docs/limits.md).
        "vmap": Transform(is_traced=True, logits_only=True),
    }
    reads_labels = False

    def around(self, form: Form) -> contextlib.AbstractContextManager[Any]:
        """Nothing."""
        return contextlib.nullcontext()

    def asarray(self, values: Array) -> Any:
        """An array of the same dtype."""
        mx = self.library
        if values.dtype.name == "bfloat16":
            return mx.array(values.astype(np.float32)).astype(mx.bfloat16)
        if values.dtype == np.float64:
            return mx.array(values, mx.float64)
        return mx.array(np.array(values))

    def to_numpy(self, array: Any) -> Array:
        """The values in float64."""
        if array.dtype == self.library.bfloat16:
            array = array.astype(self.library.float32)
        return np.array(array).astype(np.float64)

    def parts(self, case: Case, form: Form) -> tuple[Any, Any, Any, Any]:
        """Arrays to differentiate in, the others, upstream and direction."""
        wrt, rest = self.split(case, form)
        along = {name: self.asarray(v) for name, v in case.direction.items()}
        return wrt, rest, self.asarray(case.upstream), along

    def objective(self, form: Form, options: Any, rest: Any, upstream: Any) -> Callable[..., Any]:
        """The loss times its upstream, which MLX sums without looking at empty axes."""

        def function(*values: Any) -> Any:
            loss = cross_entropy(**dict(zip(form.wrt, values, strict=True)), **rest, **options)
            return (loss * upstream).reshape((loss.size,)).sum()

        return function

    def run_grad(self, form: Form, call: Call) -> Run:
        """`mx.grad`."""
        options = call.options

        def run(case: Case) -> Results:
            wrt, rest, upstream, _ = self.parts(case, form)
            places = list(range(len(wrt)))
            slopes = self.slopes(self.objective(form, options, rest, upstream), places)
            loss = cross_entropy(**wrt, **rest, **options)
            return self.named(form, loss, slopes(*wrt.values()))

        return run

    def named(self, form: Form, loss: Any, *orders: Any) -> Results:
        """Results by the names of the arrays."""
        return self.collected(loss, *(dict(zip(form.wrt, o, strict=True)) for o in orders))

    def slopes(self, function: Callable[..., Any], places: list[int]) -> Callable[..., list[Any]]:
        """`mx.grad`, which makes no list of a single gradient."""
        grad = self.library.grad(function, places)
        return lambda *values: list(grad(*values)) if len(places) > 1 else [grad(*values)]

    def run_twice(self, form: Form, call: Call) -> Run:
        """`mx.vjp` over `mx.grad`."""
        mx, options = self.library, call.options

        def run(case: Case) -> Results:
            wrt, rest, upstream, along = self.parts(case, form)
            values, places = list(wrt.values()), list(range(len(wrt)))
            slope = self.slopes(self.objective(form, options, rest, upstream), places)
            first, second = mx.vjp(slope, values, list(along.values()))
            return self.named(form, cross_entropy(**wrt, **rest, **options), first, second)

        return run

    def run_forward(self, form: Form, call: Call) -> Run:
        """Forward mode alone."""
        mx, options = self.library, call.options

        def run(case: Case) -> Results:
            wrt, rest, _, along = self.parts(case, form)

            def loss(*values: Any) -> Any:
                wrt = dict(zip(form.wrt, values, strict=True))
                return cross_entropy(**wrt, **rest, **options)

            [value], [slope] = mx.jvp(loss, list(wrt.values()), list(along.values()))
            return {"loss": self.to_numpy(value), "along": self.to_numpy(slope)}

        return run

    def run_vmap(self, form: Form, call: Call) -> Run:
        """The gradient under `mx.vmap`, beside a copy of the call with other logits."""
        mx, options = self.library, call.options
        names = list(call.arrays)
        places = [names.index(name) for name in form.wrt]

        def run(case: Case) -> Results:
            arrays = {name: self.asarray(v) for name, v in case.call.arrays.items()}
            upstream = self.asarray(case.upstream)

            def total(*values: Any) -> Any:
                loss = cross_entropy(**dict(zip(names, values, strict=True)), **options)
                return (loss * upstream).reshape((loss.size,)).sum()

            beside = {n: (mx.zeros_like(a) if n == "logits" else a) for n, a in arrays.items()}
            stacked = [mx.stack([beside[n], a]) for n, a in arrays.items()]
            slopes = mx.vmap(self.slopes(total, places))(*stacked)
            slopes = [slope[1] for slope in slopes]
            return self.named(form, cross_entropy(**arrays, **options), slopes)

        return run
