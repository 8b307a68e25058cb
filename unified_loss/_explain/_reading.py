"""Arguments as the rules know them: of arrays, and of what stands for them."""

from typing import Any, NamedTuple

from unified_loss import _columns as columns
from unified_loss import _host as host
from unified_loss import _messages as messages
from unified_loss import _rules as rules
from unified_loss._backend import Backend
from unified_loss._call import number as as_number
from unified_loss._call import weights_by_name
from unified_loss._dispatch import (
    LOADERS,
    _array_api,
    backend_of,
    explain_object,
    known_names,
    loaded,
)
from unified_loss._explain import _texts as texts
from unified_loss._explain._texts import Shaped
from unified_loss._linear_call import AXIS
from unified_loss._shapes import same_size
from unified_loss._types import Head, Operands, Options, Problem, Shape, Spec
from unified_loss.exceptions import BackendError, LossInputError, OptionError

ARRAYS = Operands._fields
NAMED = (*ARRAYS[2:], "weight")  # what people name; weight is class_weight in other libraries
HOST = ("numpy", "python")
SIZES = {("torch", "Size"), ("tensorflow", "TensorShape")}
ABSTRACT = {("jax", "ShapeDtypeStruct"), ("tensorflow", "TensorSpec"), *SIZES}


class Call(NamedTuple):
    """A call by its shapes."""

    problem: Problem
    backend: Backend | None  # None: not installed
    error: LossInputError | None  # what shapes, dtypes and options do not tell


def stands_for_array(name: str, value: Any) -> bool:
    """Whether an argument is a shape and can be nothing else."""
    if isinstance(value, str):
        return not is_name(name, value)
    return _abstract_library(value) is not None


def is_name(name: str, value: Any) -> bool:
    """Whether weights are named, as "balanced"."""
    return isinstance(value, str) and name in NAMED and value.isidentifier()


def is_shape(logits: Any) -> bool:
    """Whether the logits are a shape; no library has tuples for arrays."""
    return isinstance(logits, tuple) or stands_for_array(ARRAYS[0], logits)


def shape_of(name: str, value: Any, *, tuples: bool) -> Shape | None:
    """The shape of an argument, or that it stands for."""
    return _read(name, value, None, tuples=tuples).shape


def problem_of(backend: Backend, arrays: Operands, options: Options) -> Problem:
    """The problem of a call with arrays alone."""
    logits, *others = arrays
    specs = [
        None if value is None and name != "labels" else _spec_of_array(name, value)
        for name, value in zip(ARRAYS[1:], others, strict=True)
    ]
    return _problem(backend.spec(logits), specs, options, backend.same_size)


def read_shapes(arrays: Operands, options: Options, framework: str | None, head: Head) -> Call:
    """A call in which an argument, or all, are shapes; of the linear form with a weight."""
    normalizer, error = _number_or_error(arrays.normalizer)
    named = arrays.class_weight if is_name("class_weight", arrays.class_weight) else None
    if named is not None:
        arrays = arrays._replace(class_weight=None)
    given = arrays._replace(normalizer=normalizer)._asdict()
    first = "logits"
    if head.weight is not None:
        first = "hidden"
        given = head._asdict() | given
        del given["logits"]
    shaped = {
        name: _read(name, value, framework, tuples=is_shape(arrays[0]))
        for name, value in given.items()
        if value is not None or name in {first, "labels"}
    }
    library = framework or _library_told(shaped, first)
    specs = {name: _spec(name, shaped, library, first) for name in given}
    backend = _load(library)
    options = options if first == "logits" else options._replace(axis=AXIS)
    problem = _problem(specs[first], [specs[name] for name in ARRAYS[1:]], options, same_size)
    if first == "hidden":
        problem = problem._replace(head=Head(*(specs[name] for name in Head._fields)))
    refused = None if named is None else weights_by_name(named, problem)
    others = error or _not_held(normalizer, specs[first])
    error = _foreign(specs, first, backend) or refused or others
    return Call(problem, backend, error)


def check_framework(framework: str | None, *, with_arrays: bool) -> None:
    """`OptionError` for a library that is not known, or that the logits tell already."""
    known = known_names()
    is_known = isinstance(framework, str) and framework in known
    if framework is not None and (with_arrays or not is_known):
        wanted = "None where logits are an array" if with_arrays else f"one of {', '.join(known)}"
        raise OptionError(messages.option("framework", framework, wanted))


def _number_or_error(normalizer: Any) -> tuple[Any, LossInputError | None]:
    if isinstance(normalizer, tuple) or stands_for_array("normalizer", normalizer):
        return normalizer, None
    try:
        return as_number(normalizer), None
    except LossInputError as error:
        return None, error


def _not_held(normalizer: Any, logits: Spec) -> LossInputError | None:
    if isinstance(normalizer, float) and logits.dtype in rules.FLOATING:
        try:
            rules.held("normalizer", normalizer, rules.compute_dtype(logits.dtype))
        except LossInputError as error:
            return error
    return None


def _problem(logits: Spec, others: Any, options: Options, same: Any) -> Problem:
    labels, class_weight, sample_weight, normalizer = others
    return Problem(logits, labels, class_weight, sample_weight, normalizer, options, same)


def _read(name: str, value: Any, framework: str | None, *, tuples: bool) -> Shaped:
    if stands_for_array(name, value):
        read = texts.shaped(name, value) if isinstance(value, str) else _read_abstract(name, value)
        overruled = framework is not None and read.library not in HOST
        return read._replace(library=None) if overruled else read
    if tuples and isinstance(value, tuple):
        return Shaped(None, texts.sizes_of(name, value, value), None)
    try:
        return Shaped(*_spec_of_array(name, value))
    except BackendError as error:
        explain_object(error, name, value, "numpy")
        raise


def _read_abstract(name: str, value: Any) -> Shaped:
    library = _abstract_library(value)
    has_dtype = (library, type(value).__name__) not in SIZES
    sizes = value.shape if has_dtype else value
    rank = getattr(sizes, "rank", 0)  # None in TensorFlow
    shape = None if rank is None else texts.sizes_of(name, value, tuple(sizes))
    if not has_dtype:
        return Shaped(library, shape, None)
    dtype = rules.attribute(value.dtype, "name") or str(value.dtype).rpartition(".")[2]
    return Shaped(library, shape, dtype)


def _spec_of_array(name: str, value: Any) -> Spec:
    value = columns.as_host(value, name)
    if host.is_host_data(value):
        return host.spec(value, host.as_numpy(value, name))
    return backend_of(value, name).spec(value)


def _abstract_library(value: Any) -> str | None:
    kind = type(value)
    package = rules.package_of(kind)
    if (package, kind.__name__) in ABSTRACT or rules.attribute(value, "is_meta") is True:
        return package
    return None


def _library_told(shaped: dict[str, Shaped], first: str) -> str:
    """The library that the first argument tells, else another argument, else NumPy."""
    told = shaped[first].library
    if told is not None:
        return "numpy" if told in HOST else told
    others = (one.library for one in shaped.values())
    return next((one for one in others if one is not None and one not in HOST), "numpy")


def _spec(name: str, shaped: dict[str, Shaped], library: str, first: str) -> Any:
    if name not in shaped:
        return None
    told, shape, dtype = shaped[name]
    if name == first or told is None:
        told = library
    is_index = name == "labels" and shape != _shape_of_logits(shaped, first)
    return Spec(told, shape, dtype or ("int64" if is_index else "float32"))


def _shape_of_logits(shaped: dict[str, Shaped], first: str) -> Shape | None:
    shape = shaped[first].shape
    if first == "logits" or not shape:
        return shape
    weight = shaped["weight"].shape
    return (*shape[:-1], weight[0]) if weight else None


def _load(library: str) -> Backend | None:
    try:
        return loaded(library) if library in LOADERS else _array_api()
    except ImportError:
        return None


def _foreign(
    specs: dict[str, Spec | None], first: str, backend: Backend | None
) -> BackendError | None:
    """R2: an argument of a third library."""
    here = specs[first].library  # type: ignore[union-attr]
    for name, spec in specs.items():
        if spec is not None and spec.library not in {here, *HOST}:
            reason = f"it is of {spec.library}, the logits of {here}"
            fix = f"as one of {here}" if backend is None else backend.convert(name)
            return BackendError(messages.cannot_combine(name, reason, fix, first))
    return None
