"""From a fault to the smallest call that shows it, and code that can be pasted."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.fuzz.calls import Case, Form, dtype_of
from tests.fuzz.runners import Runner
from tests.fuzz.session import Fault, examined
from tests.helpers.problems import DEFAULTS, Array, pasteable

ATTEMPTS = 200


def shrunk(runner: Runner, fault: Fault) -> Fault:
    """The same fault in a smaller call, by one change after another."""
    left = ATTEMPTS
    moved = True
    while moved and left > 0:
        moved = False
        for form, case in _smaller(fault.form, fault.case):
            left -= 1
            found = _again(runner, fault, form, case)
            if found is not None:
                fault, moved = found, True
                break
            if left <= 0:
                break
    return fault


def _again(runner: Runner, fault: Fault, form: Form, case: Case) -> Fault | None:
    with runner.around(form):
        try:
            found, _ = examined(runner, fault.transform, form, case)
        except Exception:  # noqa: BLE001 (the change made no call)
            return None
    for difference in found or ():
        if (difference.name, difference.nature) == (fault.difference.name, fault.difference.nature):
            return fault._replace(form=form, case=case, difference=difference)
    return None


def _smaller(form: Form, case: Case) -> Iterator[tuple[Form, Case]]:
    is_flat = len(form.batch) == 1 and form.class_axis == form.axis == -1 and form.kind != "kept"
    if not is_flat:
        yield from _flattened(form, case)
    yield from _with_fewer_options(form, case)
    if is_flat:
        for i in range(form.batch[0]):
            yield _without_row(form, case, i)
        for c in range(form.classes):
            yield from _without_class(form, case, c)
    yield from _plain_dtypes(form, case)
    yield from _plain_values(form, case)


def _with_fewer_options(form: Form, case: Case) -> Iterator[tuple[Form, Case]]:
    for name, value in {"layout": "plain", "size": "usual", "on_host": (), "check": "auto"}.items():
        if getattr(form, name) != value:
            changed = form._replace(**{name: value})
            yield changed, case._replace(call=case.call.but(check=changed.check))
    for name, value in DEFAULTS.items():
        if getattr(case.call, name) != value:
            yield from _with_option(form, case, name, value)
    for name in ("class_weight", "sample_weight"):
        if getattr(case.call, name) is not None:
            yield _without(form, case, name)
    for name in form.wrt[1:]:
        kept = {other: v for other, v in case.direction.items() if other != name}
        wrt = tuple(other for other in form.wrt if other != name)
        yield form._replace(wrt=wrt), case._replace(direction=kept)


def _flattened(form: Form, case: Case) -> Iterator[tuple[Form, Case]]:
    call, axis = case.call, case.call.class_axis
    rows = int(np.prod(form.batch))

    def flat(array: Array) -> Array:
        return np.moveaxis(array, axis, -1).reshape(rows, form.classes).copy()

    direction = {}
    for name, value in case.direction.items():
        direction[name] = flat(value) if value.shape == call.logits.shape else value
    weight = call.sample_weight
    if weight is not None:
        if "sample_weight" in direction:
            v = call.but(sample_weight=direction["sample_weight"]).example_weights()
            direction["sample_weight"] = v.reshape(rows).astype(weight.dtype)
        weight = call.example_weights().reshape(rows).astype(weight.dtype)
    labels = flat(call.labels) if form.kind == "dense" else call.labels.reshape(rows)
    changed = call.but(
        logits=flat(call.logits), labels=labels, class_axis=1, axis=-1, sample_weight=weight
    )
    upstream = case.upstream.reshape(rows) if case.upstream.ndim else case.upstream
    kind = "dense" if form.kind == "dense" else "index"
    yield (
        form._replace(batch=(rows,), class_axis=-1, axis=-1, kind=kind, first_axis=False),
        Case(changed, upstream, direction),
    )


def _with_option(form: Form, case: Case, name: str, value: Any) -> Iterator[tuple[Form, Case]]:
    if name == "reduction":
        for other in ("sum", "none"):
            if other != case.call.reduction and case.call.normalizer is None:
                shape = form.batch if other == "none" else ()
                upstream = np.ones(shape, case.upstream.dtype)
                call = case.call.but(reduction=other)
                if (other, case.call.reduction) != ("none", "sum"):
                    yield form._replace(reduction=other), Case(call, upstream, case.direction)
        return
    changed = case.call.but(**{name: value})
    if name == "normalizer":
        changed = changed.but(normalizer_is_array=False)
        form = form._replace(normalizer_is_array=False)
    yield form._replace(**{name: value}), case._replace(call=changed)


def _without(form: Form, case: Case, name: str) -> tuple[Form, Case]:
    direction = {other: v for other, v in case.direction.items() if other != name}
    wrt = tuple(other for other in form.wrt if other != name)
    return form._replace(wrt=wrt, **{name: None}), Case(
        case.call.but(**{name: None}), case.upstream, direction
    )


def _without_row(form: Form, case: Case, i: int) -> tuple[Form, Case]:
    def cut(name: str, array: Array | None) -> Array | None:
        return array if array is None or name == "class_weight" else np.delete(array, i, 0)

    call = case.call
    names = ("logits", "labels", "sample_weight")
    changed = call.but(**{name: cut(name, getattr(call, name)) for name in names})
    direction = {name: cut(name, v) for name, v in case.direction.items()}
    upstream = np.delete(case.upstream, i, 0) if case.upstream.ndim else case.upstream
    return form._replace(batch=(form.batch[0] - 1,)), Case(changed, upstream, direction)


def _without_class(form: Form, case: Case, c: int) -> Iterator[tuple[Form, Case]]:
    call = case.call
    names = ["logits", "class_weight"]
    labels = call.labels
    if form.kind == "dense":
        names.append("labels")
    else:
        if form.classes < 3 or (labels == c).any():
            return
        labels = np.where((labels > c) & (labels < form.classes), labels - 1, labels)
    if form.classes < 2:
        return

    def cut(name: str, array: Array | None) -> Array | None:
        return array if array is None or name not in names else np.delete(array, c, -1)

    changed = call.but(labels=labels.astype(call.labels.dtype))
    changed = changed.but(**{name: cut(name, getattr(changed, name)) for name in names})
    direction = {name: cut(name, v) for name, v in case.direction.items()}
    yield form._replace(classes=form.classes - 1), Case(changed, case.upstream, direction)


def _plain_dtypes(form: Form, case: Case) -> Iterator[tuple[Form, Case]]:
    fields = {"logits": "dtype"}
    for name in ("logits", "labels", "class_weight", "sample_weight"):
        array = getattr(case.call, name)
        wanted = "int32" if name == "labels" and form.kind != "dense" else "float32"
        if array is None or array.dtype in (np.dtype(wanted), bool):
            continue
        with np.errstate(all="ignore"):
            changed = case.call.but(**{name: array.astype(wanted)})
            direction = dict(case.direction)
            if name in direction:
                direction[name] = direction[name].astype(dtype_of(wanted))
        upstream = case.upstream.astype(np.float32) if name == "logits" else case.upstream
        yield form._replace(**{fields.get(name, name): wanted}), Case(changed, upstream, direction)


def _plain_values(form: Form, case: Case) -> Iterator[tuple[Form, Case]]:
    call = case.call
    if (case.upstream != 1).any():
        yield form, case._replace(upstream=np.ones_like(case.upstream))
    for name, values in case.direction.items():
        for place in np.argwhere(values != 0):
            moved = values.copy()
            moved[tuple(place)] = 0
            yield form, case._replace(direction={**case.direction, name: moved})
    for name in ("logits", "class_weight", "sample_weight"):
        values = getattr(call, name)
        if values is None or values.dtype == bool:
            continue
        wanted = 0 if name == "logits" else 1
        odd = (values != wanted) & np.isfinite(values.astype(float))
        if name != "logits":
            odd &= values != 0
        for place in np.argwhere(odd):
            changed = values.copy()
            changed[tuple(place)] = wanted
            yield form, case._replace(call=call.but(**{name: changed}))


def report(fault: Fault) -> str:
    """What was got, what is true, and code that shows both."""
    form, case, difference = fault.form, fault.case, fault.difference
    usual = Form()
    changed = {
        name: value for name, value in form._asdict().items() if value != getattr(usual, name)
    }
    settings = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    direction = ", ".join(f"{name!r}: {pasteable(v)}" for name, v in case.direction.items())
    lines = [
        f"# {' / '.join(fault.signature)}   drawn at {fault.origin}",
        f"# {case.call}",
        f"# got  {_values(difference.got)}",
        f"# true {_values(difference.true)}",
        "import ml_dtypes, numpy as np",
        "from tests.fuzz.calls import Call, Case, Form",
        "from tests.fuzz.replay import replay",
        f"replay({fault.backend!r}, {fault.transform!r}, Form({settings}), Case(",
        f"    {_call(case.call)},",
        f"    {pasteable(case.upstream)}, {{{direction}}}))",
    ]
    return "\n".join(lines)


def _call(call: Any) -> str:
    fields = ("class_weight", "sample_weight")
    parts = [pasteable(call.logits), pasteable(call.labels), f"{call.class_axis}, {call.axis}"]
    parts += [f"{n}={pasteable(v)}" for n in fields if (v := getattr(call, n)) is not None]
    extra = {**DEFAULTS, "check": "auto", "normalizer_is_array": False}
    parts += [f"{n}={v!r}" for n, of in extra.items() if (v := getattr(call, n)) != of]
    return f"Call({', '.join(parts)})"


def _values(array: Any) -> str:
    return "-" if array is None else str(array.tolist())
