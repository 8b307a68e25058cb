"""JAX: eager, under `jit`, and every transform of it; one compilation serves many draws."""

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from tests.fuzz.calls import Call, Case, Form
from tests.fuzz.draws import Ability
from tests.fuzz.runners import Results, Run, Runner, Transform
from tests.helpers.problems import Array
from unified_loss import cross_entropy, cross_entropy_with_grad

MANY = 150


class Jax(Runner):
    """JAX."""

    name = module = "jax"
    share = 16.0
    ability = Ability(("float16", "bfloat16", "float32", "float64"))
    transforms: ClassVar[dict[str, Transform]] = {
        "loss": Transform(is_unit=True, draws=MANY),
        "with_grad": Transform(is_unit=True, draws=MANY),
        "jit": Transform(is_unit=True, draws=MANY, is_traced=True),
        "grad": Transform(share=2, draws=MANY, is_traced=True),
        "twice": Transform(is_along=True, share=2, draws=MANY, is_traced=True),
        "reverse": Transform(is_along=True, share=2, draws=MANY, is_traced=True),
        "forward": Transform(is_along=True, draws=MANY, is_traced=True),
        "vmap": Transform(is_along=True, draws=MANY, is_traced=True),
        "hessian": Transform(
            is_along=True, draws=MANY, is_traced=True, small=True, logits_only=True
        ),
    }

    def around(self, form: Form) -> contextlib.AbstractContextManager[Any]:
        """64 bits for float64."""
        return self.library.enable_x64(form.dtype == "float64")

    def asarray(self, values: Array) -> Any:
        """An array; what 32 bits cannot hold stays in NumPy."""
        if values.dtype.kind in "iu" and values.itemsize == 8:
            return values
        return self.library.numpy.asarray(values)

    def finish(self) -> None:
        """Forget what was compiled."""
        self.library.clear_caches()

    def fit(self, form: Form, transform: Transform) -> Form:
        """JAX traces 64-bit integers only where it has 64 bits."""
        if transform.is_traced and form.dtype != "float64":
            form = form._replace(labels=form.labels.replace("int64", "int32"))
        return super().fit(form, transform)

    def traceable(self, call: Call) -> dict[str, Any]:
        """The arguments of a compiled function."""
        return {name: self.library.numpy.asarray(v) for name, v in call.arrays.items()}

    def parts(self, case: Case, form: Form) -> tuple[Any, Any, Any, Any]:
        """Arrays to differentiate in, the others, upstream and direction."""
        rest = self.traceable(case.call)
        wrt = {name: rest.pop(name) for name in form.wrt}
        return wrt, rest, case.upstream, case.direction

    def objective(self, options: dict[str, Any]) -> Callable[..., Any]:
        """The loss times its upstream, and the loss."""

        def function(wrt: Any, rest: Any, upstream: Any) -> Any:
            loss = cross_entropy(**wrt, **rest, **options)
            return (loss * upstream).sum(), loss

        return function

    def run_jit(self, form: Form, call: Call) -> Run:
        """Loss and closed gradient in a compiled function."""
        options = call.options
        function = self.library.jit(lambda arrays: cross_entropy_with_grad(**arrays, **options))

        def run(case: Case) -> Results:
            loss, slope = function(self.traceable(case.call))
            return self.collected(loss, {"logits": slope})

        return run

    def run_grad(self, form: Form, call: Call) -> Run:
        """The gradient, compiled."""
        function = self.library.jit(self.library.grad(self.objective(call.options), has_aux=True))

        def run(case: Case) -> Results:
            wrt, rest, upstream, _ = self.parts(case, form)
            first, loss = function(wrt, rest, upstream)
            return self.collected(loss, first)

        return run

    def run_twice(self, form: Form, call: Call) -> Run:
        """Forward mode over the gradient."""
        jax = self.library
        slope = jax.grad(self.objective(call.options), has_aux=True)

        @jax.jit
        def function(wrt: Any, rest: Any, upstream: Any, along: Any) -> Any:
            return jax.jvp(lambda wrt: slope(wrt, rest, upstream), (wrt,), (along,), has_aux=True)

        def run(case: Case) -> Results:
            first, second, loss = function(*self.parts(case, form))
            return self.collected(loss, first, second)

        return run

    def run_reverse(self, form: Form, call: Call) -> Run:
        """The gradient of a gradient."""
        jax = self.library
        slope = jax.grad(self.objective(call.options), has_aux=True)

        @jax.jit
        def function(wrt: Any, rest: Any, upstream: Any, along: Any) -> Any:
            first, back, loss = jax.vjp(lambda wrt: slope(wrt, rest, upstream), wrt, has_aux=True)
            return first, back(along)[0], loss

        def run(case: Case) -> Results:
            first, second, loss = function(*self.parts(case, form))
            return self.collected(loss, first, second)

        return run

    def run_forward(self, form: Form, call: Call) -> Run:
        """Forward mode alone."""
        jax, options = self.library, call.options

        @jax.jit
        def function(wrt: Any, rest: Any, along: Any) -> Any:
            return jax.jvp(lambda wrt: cross_entropy(**wrt, **rest, **options), (wrt,), (along,))

        def run(case: Case) -> Results:
            wrt, rest, _, along = self.parts(case, form)
            loss, slope = function(wrt, rest, along)
            return {"loss": self.to_numpy(loss), "along": self.to_numpy(slope)}

        return run

    def run_vmap(self, form: Form, call: Call) -> Run:
        """First and second derivatives under `vmap`, beside a call with other logits."""
        jax = self.library
        slope = jax.grad(self.objective(call.options), has_aux=True)

        @jax.jit
        @jax.vmap
        def function(wrt: Any, rest: Any, upstream: Any, along: Any) -> Any:
            return jax.jvp(lambda wrt: slope(wrt, rest, upstream), (wrt,), (along,), has_aux=True)

        def run(case: Case) -> Results:
            pairs = jax.tree.map(lambda a: np.stack([np.asarray(a)] * 2), self.parts(case, form))
            pairs[0]["logits"][0] = 0
            first, second, loss = jax.tree.map(lambda a: a[1], function(*pairs))
            return self.collected(loss, first, second)

        return run

    def run_hessian(self, form: Form, call: Call) -> Run:
        """`jax.hessian` in the logits, times the direction."""
        jax = self.library
        objective = self.objective(call.options)
        function = jax.jit(
            jax.hessian(lambda x, rest, upstream: objective({"logits": x}, rest, upstream)[0])
        )

        def run(case: Case) -> Results:
            wrt, rest, upstream, along = self.parts(case, form)
            full = self.to_numpy(function(wrt["logits"], rest, upstream))
            product = np.tensordot(full, along["logits"].astype(float), along["logits"].ndim)
            return {"dd logits": product}

        return run
