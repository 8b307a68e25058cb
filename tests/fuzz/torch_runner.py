"""PyTorch: autograd on every way through the loss, `torch.func`, forward mode and Dynamo."""

import contextlib
from typing import Any, ClassVar

import numpy as np

from tests.fuzz.calls import Call, Case, Form
from tests.fuzz.draws import Ability
from tests.fuzz.runners import Results, Run, Runner, Transform, blocks_of
from tests.helpers.problems import Array
from unified_loss import cross_entropy

BLOCKS = {"SMALL": 40, "AT_ONCE": 40, "KEPT": 0, "PARALLEL": 300}
BLOCKS |= {"TRANSPOSED_BLOCK": 40, "BLOCK": 40, "SHARED_BLOCK": 40}


class Torch(Runner):
    """PyTorch."""

    name = module = "torch"
    share = 30.0
    ability = Ability(
        ("float16", "bfloat16", "float32", "float64"),
        layouts=("plain", "plain", "transposed", "repeated", "strided"),
        sizes=(*["usual"] * 6, "blocks"),
    )
    transforms: ClassVar[dict[str, Transform]] = {
        "loss": Transform(is_unit=True),
        "with_grad": Transform(is_unit=True),
        "backward": Transform(share=4),
        "twice": Transform(is_along=True, share=3),
        "func": Transform(is_along=True, is_forward=True, share=1.5, is_traced=True),
        "reverse_func": Transform(is_along=True, share=0.5, is_traced=True),
        "forward": Transform(is_along=True, is_forward=True, share=1, is_traced=True),
        "vmap": Transform(share=1, is_traced=True),
        "hessian": Transform(
            is_along=True, share=0.5, is_traced=True, is_forward=True, small=True, logits_only=True
        ),
        "compiled": Transform(share=0.3, draws=40, is_traced=True),
    }

    def asarray(self, values: Array) -> Any:
        """A tensor with the strides of the values."""
        torch = self.library
        if values.dtype.name == "bfloat16":
            return torch.from_numpy(np.array(values.view(np.uint16))).view(torch.bfloat16)
        if 0 in values.strides and values.size:
            lead = torch.from_numpy(np.array(values[:1]))
            return lead.expand(values.shape)
        return torch.from_numpy(np.asarray(values))

    def to_numpy(self, array: Any) -> Array:
        """The values in float64."""
        return array.detach().double().numpy()

    def around(self, form: Form) -> contextlib.AbstractContextManager[Any]:
        """Blocks."""
        return blocks_of("unified_loss._backends._torch_blocks", BLOCKS, form)

    def fit(self, form: Form, transform: Transform) -> Form:
        """Forward mode of torch takes no expanded tensors, whatever the function."""
        if transform.is_forward and form.layout == "repeated":
            form = form._replace(layout="strided")
        return super().fit(form, transform)

    def finish(self) -> None:
        """Forget Dynamo's graphs."""
        self.library._dynamo.reset()

    def objective(self, options: dict[str, Any], rest: dict[str, Any], upstream: Any) -> Any:
        """The loss times its upstream, and the loss."""

        def function(wrt: dict[str, Any]) -> Any:
            loss = cross_entropy(**wrt, **rest, **options)
            return (loss * upstream).sum(), loss

        return function

    def parts(self, case: Case, form: Form) -> tuple[Any, Any, Any, Any]:
        """Arrays to differentiate in, the others, upstream and direction."""
        wrt, rest = self.split(case, form)
        along = {name: self.asarray(v) for name, v in case.direction.items()}
        return wrt, rest, self.asarray(case.upstream), along

    def run_backward(self, form: Form, call: Call) -> Run:
        """A backward pass."""
        options = call.options

        def run(case: Case) -> Results:
            wrt, rest, upstream, _ = self.parts(case, form)
            for array in wrt.values():
                array.requires_grad_()
            loss = cross_entropy(**wrt, **rest, **options)
            slopes = self.library.autograd.grad(loss, list(wrt.values()), upstream)
            return self.collected(loss, dict(zip(wrt, slopes, strict=True)))

        return run

    def run_twice(self, form: Form, call: Call) -> Run:
        """A backward pass through a backward pass."""
        options = call.options

        def run(case: Case) -> Results:
            torch = self.library
            wrt, rest, upstream, along = self.parts(case, form)
            for array in wrt.values():
                array.requires_grad_()
            loss = cross_entropy(**wrt, **rest, **options)
            slopes = torch.autograd.grad(loss, list(wrt.values()), upstream, create_graph=True)
            seconds = [torch.zeros_like(a) for a in wrt.values()]
            chosen = [i for i, slope in enumerate(slopes) if slope.requires_grad]
            if chosen:
                names = list(wrt)
                seconds = torch.autograd.grad(
                    [slopes[i] for i in chosen], list(wrt.values()),
                    [along[names[i]] for i in chosen], allow_unused=True, materialize_grads=True,
                )  # fmt: skip
            first, second = (dict(zip(wrt, s, strict=True)) for s in (slopes, seconds))
            return self.collected(loss, first, second)

        return run

    def run_func(self, form: Form, call: Call) -> Run:
        """Forward mode over `torch.func.grad`."""
        options = call.options

        def run(case: Case) -> Results:
            func = self.library.func
            wrt, rest, upstream, along = self.parts(case, form)
            slope = func.grad(self.objective(options, rest, upstream), has_aux=True)
            first, second, loss = func.jvp(slope, (wrt,), (along,), has_aux=True)
            return self.collected(loss, first, second)

        return run

    def run_reverse_func(self, form: Form, call: Call) -> Run:
        """`torch.func.vjp` over `torch.func.grad`."""
        options = call.options

        def run(case: Case) -> Results:
            func = self.library.func
            wrt, rest, upstream, along = self.parts(case, form)
            slope = func.grad(self.objective(options, rest, upstream), has_aux=True)
            first, back, loss = func.vjp(slope, wrt, has_aux=True)
            return self.collected(loss, first, back(along)[0])

        return run

    def run_forward(self, form: Form, call: Call) -> Run:
        """Forward mode alone."""
        options = call.options

        def run(case: Case) -> Results:
            wrt, rest, _, along = self.parts(case, form)
            loss, slope = self.library.func.jvp(
                lambda wrt: cross_entropy(**wrt, **rest, **options), (wrt,), (along,)
            )
            return {"loss": self.to_numpy(loss), "along": self.to_numpy(slope)}

        return run

    def run_vmap(self, form: Form, call: Call) -> Run:
        """Gradients under `torch.func.vmap`, beside a copy of the call with other logits."""
        options = call.options

        def run(case: Case) -> Results:
            torch = self.library
            arrays = {name: self.asarray(v) for name, v in case.call.arrays.items()}
            beside = {n: (torch.zeros_like(a) if n == "logits" else a) for n, a in arrays.items()}
            stacked = {n: torch.stack([beside[n], a]) for n, a in arrays.items()}
            wrt = {name: stacked.pop(name) for name in form.wrt}
            upstream = self.asarray(case.upstream)

            def slope(wrt: Any, rest: Any) -> Any:
                return torch.func.grad(self.objective(options, rest, upstream), has_aux=True)(wrt)

            first, loss = torch.func.vmap(slope)(wrt, stacked)
            return self.collected(loss[1], {name: v[1] for name, v in first.items()})

        return run

    def run_hessian(self, form: Form, call: Call) -> Run:
        """`torch.func.hessian` in the logits, times the direction."""
        options = call.options

        def run(case: Case) -> Results:
            torch = self.library
            wrt, rest, upstream, along = self.parts(case, form)
            objective = self.objective(options, rest, upstream)
            logits = wrt["logits"]
            full = torch.func.hessian(lambda x: objective({"logits": x})[0])(logits)
            ndim = logits.ndim
            product = torch.tensordot(full.double(), along["logits"].double(), ndim)
            return {"dd logits": self.to_numpy(product)}

        return run

    def run_compiled(self, form: Form, call: Call) -> Run:
        """Dynamo's graph, run eagerly, with its backward."""
        options = call.options
        names = list(call.arrays)

        def total(arrays: list[Any], upstream: Any) -> Any:
            loss = cross_entropy(**dict(zip(names, arrays, strict=True)), **options)
            return (loss * upstream).sum(), loss

        compiled = self.library.compile(total, backend="eager", fullgraph=True, dynamic=False)

        def run(case: Case) -> Results:
            arrays = {n: self.asarray(np.array(v)) for n, v in case.call.arrays.items()}
            wrt = [arrays[name].requires_grad_() for name in form.wrt]
            value, loss = compiled(list(arrays.values()), self.asarray(case.upstream))
            slopes = self.library.autograd.grad(value, wrt)
            return self.collected(loss, dict(zip(form.wrt, slopes, strict=True)))

        return run
