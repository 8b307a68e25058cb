"""TensorFlow: tapes in tapes, eager and in graphs, under XLA, and forward mode."""

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from tests.fuzz.calls import Call, Case, Form
from tests.fuzz.draws import Ability
from tests.fuzz.runners import Results, Run, Runner, Transform
from tests.helpers.problems import Array
from unified_loss import cross_entropy

MANY = 120


class TensorFlow(Runner):
    """TensorFlow."""

    name = module = "tensorflow"
    share = 12.0
    ability = Ability(("float16", "bfloat16", "float32", "float64"))
    transforms: ClassVar[dict[str, Transform]] = {
        "loss": Transform(is_unit=True),
        "with_grad": Transform(is_unit=True),
        "tape": Transform(),
        "tapes": Transform(is_along=True),
        "graph": Transform(is_along=True, share=2, draws=MANY, is_traced=True),
        "any_batch": Transform(is_along=True, draws=MANY, is_traced=True),
        "xla": Transform(is_along=True, share=2, draws=MANY, is_traced=True),
        # Forward mode passes custom gradients by, and multiplies garbage by 0 (docs/limits.md).
        "forward": Transform(is_along=True, draws=MANY, is_traced=True, logits_only=True),
        "forward_over_tape": Transform(is_along=True, draws=MANY, is_traced=True, logits_only=True),
    }

    def around(self, form: Form) -> contextlib.AbstractContextManager[Any]:
        """Nothing."""
        return contextlib.nullcontext()

    def asarray(self, values: Array) -> Any:
        """A tensor."""
        return self.library.constant(np.ascontiguousarray(values).reshape(values.shape))

    def to_numpy(self, array: Any) -> Array:
        """The values in float64; a gather's gradient is made dense."""
        return self.library.convert_to_tensor(array).numpy().astype(np.float64)

    def parts(self, case: Case, form: Form) -> tuple[Any, Any, Any, Any]:
        """Arrays to differentiate in, the others, upstream and direction."""
        wrt, rest = self.split(case, form)
        along = {name: self.asarray(v) for name, v in case.direction.items()}
        return wrt, rest, self.asarray(case.upstream), along

    def slopes(self, options: dict[str, Any]) -> Callable[..., Any]:
        """Loss, first and, by another tape, second derivatives."""
        tf = self.library

        def function(wrt: Any, rest: Any, upstream: Any, along: Any) -> Any:
            arrays, chosen = list(wrt.values()), list(along.values())
            with tf.GradientTape() as outer:
                outer.watch(arrays)
                with tf.GradientTape() as inner:
                    inner.watch(arrays)
                    loss = cross_entropy(**wrt, **rest, **options)
                first = inner.gradient(loss, arrays, upstream)
                first = [tf.convert_to_tensor(slope) for slope in first]
            second = outer.gradient(first, arrays, chosen, tf.UnconnectedGradients.ZERO)
            return loss, first, [tf.convert_to_tensor(slope) for slope in second]

        return function

    def named(self, form: Form, loss: Any, *orders: Any) -> Results:
        """Results by the names of the arrays."""
        return self.collected(loss, *(dict(zip(form.wrt, o, strict=True)) for o in orders))

    def run_tape(self, form: Form, call: Call) -> Run:
        """One tape, eagerly."""
        tf, options = self.library, call.options

        def run(case: Case) -> Results:
            wrt, rest, upstream, _ = self.parts(case, form)
            with tf.GradientTape() as tape:
                tape.watch(list(wrt.values()))
                loss = cross_entropy(**wrt, **rest, **options)
            return self.named(form, loss, tape.gradient(loss, list(wrt.values()), upstream))

        return run

    def run_tapes(self, form: Form, call: Call) -> Run:
        """Two tapes, eagerly."""
        function = self.slopes(call.options)
        return lambda case: self.named(form, *function(*self.parts(case, form)))

    def run_graph(self, form: Form, call: Call) -> Run:
        """Two tapes in a graph."""
        function = self.library.function(self.slopes(call.options))
        return lambda case: self.named(form, *function(*self.parts(case, form)))

    def run_any_batch(self, form: Form, call: Call) -> Run:
        """Two tapes in a graph that knows the number of classes alone."""
        tf, options = self.library, {**call.options, "axis": call.class_axis}
        signature = tf.nest.map_structure(self._loosened(call), self.parts(_case(call, form), form))
        function = tf.function(self.slopes(options), input_signature=signature)
        return lambda case: self.named(form, *function(*self.parts(case, form)))

    def _loosened(self, call: Call) -> Callable[[Any], Any]:
        tf, shape, axis = self.library, call.logits.shape, call.class_axis

        def loose(array: Any) -> Any:
            sizes: list[int | None] = [None] * len(array.shape)
            if tuple(array.shape) == shape:
                sizes[axis] = shape[axis]
            elif len(array.shape) == len(shape):
                sizes[axis] = array.shape[axis]
            return tf.TensorSpec(sizes, array.dtype)

        return loose

    def run_xla(self, form: Form, call: Call) -> Run:
        """Two tapes under XLA."""
        function = self.library.function(self.slopes(call.options), jit_compile=True)
        return lambda case: self.named(form, *function(*self.parts(case, form)))

    def run_forward(self, form: Form, call: Call) -> Run:
        """Forward mode alone."""
        tf, options = self.library, call.options

        @tf.function
        def function(wrt: Any, rest: Any, along: Any) -> Any:
            with tf.autodiff.ForwardAccumulator(list(wrt.values()), list(along.values())) as mode:
                loss = cross_entropy(**wrt, **rest, **options)
            return loss, mode.jvp(loss)

        def run(case: Case) -> Results:
            wrt, rest, _, along = self.parts(case, form)
            loss, slope = function(wrt, rest, along)
            return {"loss": self.to_numpy(loss), "along": self.to_numpy(slope)}

        return run

    def run_forward_over_tape(self, form: Form, call: Call) -> Run:
        """Forward mode over a tape."""
        tf, options = self.library, call.options

        @tf.function
        def function(wrt: Any, rest: Any, upstream: Any, along: Any) -> Any:
            arrays = list(wrt.values())
            with tf.autodiff.ForwardAccumulator(arrays, list(along.values())) as mode:
                with tf.GradientTape() as tape:
                    tape.watch(arrays)
                    loss = cross_entropy(**wrt, **rest, **options)
                first = [tf.convert_to_tensor(a) for a in tape.gradient(loss, arrays, upstream)]
            zero = tf.UnconnectedGradients.ZERO
            return loss, first, [mode.jvp(slope, zero) for slope in first]

        return lambda case: self.named(form, *function(*self.parts(case, form)))


def _case(call: Call, form: Form) -> Case:
    upstream = np.ones(call.batch_shape if call.reduction == "none" else ())
    upstream = upstream.astype(np.float64 if form.dtype == "float64" else np.float32)
    return Case(call, upstream, {name: call.arrays[name] for name in form.wrt})
