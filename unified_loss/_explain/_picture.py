"""The axes of logits and labels as boxes, each axis of the labels under that of the logits."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Literal, NamedTuple

from unified_loss import _rules as rules
from unified_loss._shown import shown_size
from unified_loss._types import Problem
from unified_loss.exceptions import LossInputError

State = Literal["same", "classes", "differs", "open"]

LEGEND: dict[State, str] = {
    "same": "= same size",
    "classes": "C class axis",
    "open": "? not known yet",
    "differs": "≠ does not fit",
}
SIGNS: dict[State, str] = {state: text[0] for state, text in LEGEND.items()}

# Jupyter breaks words in every `pre`, and with rules of more weight than one class has.
# Blue, purple and vermilion of Okabe and Ito, which the color-blind tell apart; lighter on dark.
STYLE = """
.unified-loss{--same:#0072b2;--classes:#9a4a7d;--differs:#c24e00;--open:#767676;
font-family:system-ui,sans-serif;font-size:14px;line-height:1.4;color:inherit;max-width:60em}
@media (prefers-color-scheme:dark){.unified-loss{--same:#56b4e9;--classes:#e39ac6;
--differs:#ff9b54;--open:#a0a0a0}}
[data-jp-theme-light=true] .unified-loss{--same:#0072b2;--classes:#9a4a7d;--differs:#c24e00;
--open:#767676}
[data-jp-theme-light=false] .unified-loss{--same:#56b4e9;--classes:#e39ac6;--differs:#ff9b54;
--open:#a0a0a0}
.unified-loss .head{font-weight:600;margin:0 0 .6em;overflow-wrap:anywhere}
.unified-loss .reading{margin:.6em 0 .3em}
.unified-loss .axes{display:grid;gap:.4em;align-items:stretch;overflow-x:auto;padding:2px}
.unified-loss .name{align-self:center;font-weight:600;padding-right:.4em}
.unified-loss .box{border:2px solid currentColor;border-radius:6px;padding:.25em .3em;
text-align:center;white-space:nowrap}
.unified-loss .box b{display:block;font-size:1.2em}
.unified-loss .box small{display:block;font-size:.8em}
.unified-loss .none{color:var(--open);border:2px dotted;border-radius:6px;text-align:center;
min-height:4.2em;align-content:center}
.unified-loss .same{--ink:var(--same)}
.unified-loss .classes{--ink:var(--classes)}
.unified-loss .open{--ink:var(--open)}
.unified-loss .differs{--ink:var(--differs)}
.unified-loss .box{border-color:var(--ink);background:color-mix(in srgb,var(--ink) 12%,transparent)}
.unified-loss .box.classes{border-style:double;border-width:4px}
.unified-loss .box.open{border-style:dotted}
.unified-loss .box.differs,.unified-loss .none.differs{border-style:dashed}
.unified-loss .none.differs{color:var(--ink)}
.unified-loss .sign,.unified-loss .key{color:var(--ink)}
.unified-loss .sign{font-weight:700}
.unified-loss .keys{margin:.5em 0 0;font-size:.85em}
.unified-loss .key{margin-right:1.2em;white-space:nowrap}
.unified-loss dl{display:grid;grid-template-columns:max-content 1fr;gap:.25em 1em;margin:.9em 0 0}
.unified-loss dt{font-weight:600;margin:0}
.unified-loss dd{margin:0;overflow-wrap:anywhere}
.unified-loss pre{margin:.9em 0 0;padding:0;white-space:pre-wrap!important;
overflow-wrap:anywhere;word-break:normal!important;
background:none;color:inherit;font-size:.9em}
"""


class Column(NamedTuple):
    """An axis of the logits, and the axis of the labels that belongs to it."""

    logits_axis: int | None
    labels_axis: int | None
    logits_size: str
    labels_size: str
    role: str
    state: State


Drawing = tuple[Column, ...]


def drawings_of(problem: Problem) -> tuple[Drawing, ...]:
    """The axes of a call side by side; none where a rank is unknown.

    Where the class axis is not certain, both candidates are drawn if both fit, else the better.
    """
    logits, labels = problem.logits.shape, problem.labels.shape
    if logits is None or labels is None:
        return ()
    ndim = len(logits)
    certain = True
    try:
        axes: Sequence[int] = (rules.class_axis(problem),)
    except LossInputError:
        certain = False
        axes = (1, ndim - 1) if ndim > 2 else range(ndim - 1, ndim)
    drawings = [_beside(problem, axis, certain=certain) for axis in axes]
    fitting = tuple(columns for columns in drawings if not _misfits(columns))
    return fitting or (min(drawings, key=_misfits),)


def _misfits(columns: Drawing) -> int:
    return sum(one.state == "differs" for one in columns)


def _beside(problem: Problem, axis: int, *, certain: bool) -> Drawing:
    logits, labels = problem.logits.shape, problem.labels.shape
    partners = _partners(len(logits), len(labels), axis)
    return tuple(
        Column(
            i,
            j,
            "" if i is None else shown_size(logits[i]),
            "" if j is None else shown_size(labels[j]),
            _role(i, axis, certain=certain),
            _state(problem, i, j, axis),
        )
        for i, j in partners
    )


def _partners(ndim: int, labels_ndim: int, axis: int) -> list[tuple[int | None, int | None]]:
    """Pairs of axes; labels of fewer axes have none for the classes."""
    if labels_ndim >= ndim:
        both: list[tuple[int | None, int | None]] = [(i, i) for i in range(ndim)]
        return both + [(None, j) for j in range(ndim, labels_ndim)]
    batch = (i for i in range(ndim) if i != axis)
    partner = {i: j for j, i in zip(range(labels_ndim), batch, strict=False)}
    return [(i, partner.get(i)) for i in range(ndim)]


def _role(logits_axis: int | None, axis: int, *, certain: bool) -> str:
    if logits_axis is None:
        return "too many"
    if logits_axis != axis:
        return "batch"
    return "classes" if certain else "classes?"


def _state(problem: Problem, i: int | None, j: int | None, axis: int) -> State:
    logits, labels = problem.logits.shape, problem.labels.shape
    if i is None:
        return "differs"
    if j is None:
        return "classes" if i == axis else "differs"
    same = problem.same(logits[i], labels[j])
    if i == axis:
        is_kept = problem.labels.dtype in rules.INTEGER and problem.same(labels[j], 1) is True
        return "classes" if same is not False or is_kept else "differs"
    if same is None:
        return "open"
    return "same" if same else "differs"


def drawn(
    headline: str,
    drawings: Sequence[Drawing],
    facts: Sequence[tuple[str, str]],
    error: LossInputError | None,
) -> str:
    """The report as HTML that needs nothing beside it."""
    parts = [f'<style>{STYLE}</style><p class="head">{escape(headline)}</p>']
    for columns in drawings:
        if len(drawings) > 1:
            axis = next(one.logits_axis for one in columns if one.role == "classes?")
            parts.append(f'<p class="reading">with the classes on axis {axis}:</p>')
        parts += _axes(columns)
    if drawings:
        parts.append(_legend(column for columns in drawings for column in columns))
    if facts:
        rows = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
        parts.append(f"<dl>{''.join(rows)}</dl>")
    if error is not None:
        parts.append(f"<pre>{escape(str(error))}</pre>")
    return f'<div class="unified-loss">{"".join(parts)}</div>'


def _axes(columns: Sequence[Column]) -> Iterator[str]:
    template = f"max-content repeat({len(columns)},minmax(4.6em,7em))"
    yield f'<div class="axes" style="grid-template-columns:{template}">'
    yield '<span class="name">logits</span>'
    for column in columns:
        yield _box(column.logits_axis, column.logits_size, column)
    yield '<span class="name">labels</span>'
    for column in columns:
        role_of_one = column._replace(role=_labels_role(column))
        yield _box(column.labels_axis, column.labels_size, role_of_one)
    yield "</div>"


def _legend(columns: Iterable[Column]) -> str:
    states = {column.state for column in columns}
    keys = (f'<span class="key {state}">{escape(text)}</span>'
            for state, text in LEGEND.items() if state in states)  # fmt: skip
    return f'<p class="keys">{"".join(keys)}</p>'


def _labels_role(column: Column) -> str:
    is_kept = column.state == "classes" and column.labels_size == "1"
    return "kept" if is_kept else column.role


def _box(axis: int | None, size: str, column: Column) -> str:
    if axis is None:
        missing = " differs" if column.state == "differs" else ""
        return f'<div class="none{missing}">no axis</div>'
    return (
        f'<div class="box {column.state}"><small>axis {axis}</small><b>{escape(size)}</b>'
        f'<small><span class="sign">{escape(SIGNS[column.state])}</span> '
        f"{escape(column.role)}</small></div>"
    )
