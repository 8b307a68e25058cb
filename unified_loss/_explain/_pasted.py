"""Messages that people paste: the sizes that they tell, and the call that these are of."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from unified_loss._explain import _texts as texts

FACTS = ("logits", "hidden", "weight", "bias", "labels")  # as our own errors show them
DTYPES = {"Long": "int64", "Int": "int32", "Double": "float64", "Half": "float16",
          "BFloat16": "bfloat16", "Bool": "bool"}  # fmt: skip


class Call(NamedTuple):
    """What a message tells of a call: texts that stand for arrays."""

    logits: str  # or hidden
    labels: str
    weight: str | None = None
    bias: str | None = None
    class_weight: str | None = None
    ends: tuple[int, int] | None = None  # of the labels, one of which at least is no class id


def _call(library: str, logits: str, labels: str, **others: Any) -> Call:
    """A call of sizes, and perhaps dtypes, of a library."""
    return Call(f"{library} {logits}", f"{library} {labels}", **others)


def _of_rank(number: str) -> str:
    return f"int64[{', '.join('?' * int(number))}]"


# What tells sizes without the names of both arrays, or not all of them.
MESSAGES: tuple[tuple[str, Callable[..., Call]], ...] = (
    (
        r"input batch_size \((\d+)\) to match target batch_size \((\d+)\)",
        lambda n, m: _call("torch", f"float32[{n}, ?]", f"int64[{m}]"),
    ),
    (
        r"Expected target size \[(\d+)((?:, \d+)*)\], got \[([\d, ]*)\]",
        lambda n, rest, got: _call("torch", f"float32[{n}, ?{rest}]", f"int64[{got}]"),
    ),
    (
        r"(?:0D or )?1D target tensor expected|multi-target not supported",
        lambda: _call("torch", "float32[?, ?]", "int64[?, ?]"),
    ),
    (
        r"spatial targets supported \(.*?\) but got targets of dimension: (\d)",
        lambda ndim: _call("torch", "float32[?, ?, ?, ?]", _of_rank(ndim)),
    ),
    (
        r"spatial targets supported \(.*?\) but got targets of size : \[([\d, ]*)\]",
        lambda sizes: _call("torch", "float32[?, ?, ?, ?]", f"int64[{sizes}]"),
    ),
    (
        r"1D target must have size 1, but got target size: (\d+)",
        lambda n: _call("torch", "float32[?]", f"int64[{n}]"),
    ),
    (
        r"(?:Long or Byte, but got|type Long but found|type Long but got scalar type) (\w+)",
        lambda kind: _call("torch", "float32[?, ?]", f"{DTYPES.get(kind, 'float32')}[?]"),
    ),
    (
        r"(?i)target size \(torch\.Size\((\[.*?\])\)\).*? input size \(torch\.Size\((\[.*?\])\)\)",
        lambda labels, logits: _call("torch", f"float32{logits}", f"float32{labels}"),
    ),
    (
        r"`logits` and `labels` must have the same shape, received \((\(.*?\)) vs (\(.*?\))\)",
        lambda logits, labels: _call("tensorflow", f"float32{logits}", f"float32{labels}"),
    ),
    (
        r"for all (\d+) classes or no classes but got weight tensor of shape: \[([\d, ]*)\]",
        lambda classes, sizes: _call(
            "torch", f"float32[?, {classes}]", "int64[?]", class_weight=f"torch float32[{sizes}]"
        ),
    ),
)
# What tells a label, and the number of classes; of a library.
LABELS = (
    (r"label value of (-?\d+) which is outside the valid range of \[0, (\d+)\)", "tensorflow"),
    (r"index (-?\d+) is out of bounds for axis \d+ with size (\d+)", "numpy"),
)
RANGE = r"class ids in \[0, \d+\), but .* from (-?\d+) to (-?\d+)\."  # of an error of ours
# Names that libraries have for both, each with the sizes that follow it.
SIZES = r"\[[\d,? ]*\]|\((?:\d+|None|\?)?(?:,\s*(?:\d+|None|\?))*,?\)|\d+(?:x\d+)+"
NAMES = {"logits": r"logits|inputs?|outputs?|y_pred|preds?", "labels": r"labels?|targets?|y_true"}
ANY_NAME = rf"(?<![a-z])(?:{'|'.join(NAMES.values())})(?![a-z])"
NAMED = {
    name: re.compile(
        rf"(?i)(?<![a-z])(?:{words})(?![a-z])(?:(?!{ANY_NAME})[^\[\](){{}}\d])*?"
        rf"(?:\(received\s+|\(?(?:torch\.Size|TensorShape)\()?(?P<sizes>{SIZES})"
    )
    for name, words in NAMES.items()
}
_SHAPE = rf"(?:(?:torch\.Size|TensorShape)\()?((?![\d]){SIZES})\)?"
PAIR = re.compile(rf"\s*{_SHAPE}(?:\s*,\s*|\s+){_SHAPE}\s*")
DENSE = r"must be broadcastable|must have the same shape\."  # of a loss for rows of probabilities
# Whose words they are, where neither a name nor a print tells it.
WORDS = {
    r"torch\.|target size|got input: ": "torch",
    r"logits_size=|(?:labels|output)\.shape|got logits shape|of logits except": "tensorflow",
    r"Targets shape": "mlx",
}


def call_in(text: str) -> Call | None:
    """The call that a text tells of, None if it is a shape; `OptionError` if it is neither."""
    readings = (_of_pair, _of_facts, _of_message, _of_label, _of_names)
    called = next(filter(None, (reading(text) for reading in readings)), None)
    if called is None:
        texts.shaped(FACTS[0], text, texts.NO_SIZES)
    return called


def _of_pair(text: str) -> Call | None:
    """What ``print(logits.shape, labels.shape)`` prints."""
    found = PAIR.fullmatch(text)
    if found is None:
        return None
    library = next((texts.PRINTS[kind] for kind in texts.PRINTS if kind in text), "")
    return _call(library, *found.groups())


def _of_facts(text: str) -> Call | None:
    """The arguments in the line of facts of an error of ours; where they are is no matter."""
    for line in text.splitlines():
        parts = (part.partition(": ") for part in re.split(r" {2,}", line.strip()))
        given = {name: re.split(" (?:on|in) ", told)[0] for name, _, told in parts if name in FACTS}
        first = given.get("logits") or given.get("hidden")
        if first is not None and "labels" in given:
            call = Call(first, given["labels"], given.get("weight"), given.get("bias"))
            ids = re.search(RANGE, text)
            return call if ids is None else call._replace(ends=(int(ids[1]), int(ids[2])))
    return None


def _of_message(text: str) -> Call | None:
    found = ((call, re.search(words, text)) for words, call in MESSAGES)
    return next((call(*match.groups()) for call, match in found if match is not None), None)


def _of_label(text: str) -> Call | None:
    for words, library in LABELS:
        found = re.search(words, text)
        if found is not None:
            label, classes = map(int, found.groups())
            ends = min(label, 0), max(label, classes - 1)  # if the others are class ids
            return _call(library, f"float32[?, {classes}]", "int64[?]", ends=ends)
    return None


def _of_names(text: str) -> Call | None:
    """Both arrays, each by a name with sizes behind it."""
    found = {name: pattern.search(text) for name, pattern in NAMED.items()}
    sizes = {name: _bracketed(match["sizes"]) for name, match in found.items() if match is not None}
    if len(sizes) < len(found):
        return None
    library = next((library for words, library in WORDS.items() if re.search(words, text)), "")
    if re.search(DENSE, text):
        sizes["labels"] = f"float32{sizes['labels']}"
    return _call(library, **sizes)


def _bracketed(sizes: str) -> str:
    return f"[{sizes}]" if sizes[0].isdecimal() else sizes
