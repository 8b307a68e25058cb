"""Texts that stand for arrays: shapes as people write them, and as libraries print them."""

import math
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from unified_loss import _messages as messages
from unified_loss import _rules as rules
from unified_loss._offered import hinted
from unified_loss._types import Shape, Size
from unified_loss.exceptions import OptionError

MODULE = r"(?:(?:torch|tf|jnp|np)\.)?"
TEXT = re.compile(
    rf"\s*(?:([a-z]\w*)\s+)?{MODULE}(\w+)?\s*[\[(]([^\[\]()]*)[\])](?:\{{[\d,]*\}})?\s*"
)
# What ``print(x.shape, x.dtype)`` prints, and sizes alone.
PAIRED = re.compile(
    r"\s*(?:torch\.Size\(|TensorShape\()?[\[(](?P<sizes>[^\[\]()]*)[\])]\)?[\s,]+"
    rf"(?:<dtype:\s*'|dtype\('|dtype\s*[=:]\s*)?{MODULE}(?P<dtype>\w+)['>)]*\s*"
)
SIZES = re.compile(r"[\s\d?,]*[\d?][\s\d?,]*")
# What people write around a shape: its name, what it is, and a sign between sizes.
CALLED = re.compile(
    r"\s*(?:[a-zA-Z_][\w.]*(?:\[[\"'\w]+\])?[\w.]*\s*[:=]"
    r"|(?:logits|labels|hidden|weight|bias)\s)(?=\s*\S)"
)
NOUN = re.compile(
    r"(?i)\s*(?:an?\s+)?(?:(?:tensor|array)\s+)?(?:(?:of|with)\s+)?(?:shape|size)\b\s*[:=]?"
)
TIMES = re.compile(r"(?<=[\d?])\s*[x\u00d7*]\s*(?=[\d?])")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")  # beside signs between sizes
# What libraries print: Tensor(shape=(32, 10), dtype=float32), torch.Size([32, 10]) and their like.
PRINTED = re.compile(r"(?s)(?P<kind>.*?)shape=[\[(](?P<sizes>[^\[\]()]*)[\])](?P<rest>.*)")
DTYPE = re.compile(r"dtype=[\"'<]*(?:(?:dtype|class)\W+)?(?:\w+\.)*(\w+)")
ENCLOSED = re.compile(r"\s*(torch\.Size|TensorShape|ShapedArray|\w*Trace[rd])[(<](.*)[)>]\s*")
PRINTS = {"torch.Size": "torch", "TensorShape": "tensorflow", "TensorSpec": "tensorflow",
          "tf.": "tensorflow", "ShapedArray": "jax", "ShapeDtypeStruct": "jax", "Tracer(": "jax",
          "torch.": "torch", "dask.array": "dask"}  # fmt: skip
UNKNOWN = ("?", "None")
LARGEST, DIGITS = 2**63 - 1, 20  # no array has more entries, and no such number more digits
SHORT = {"bf": "bfloat", "f": "float", "i": "int", "s": "int", "u": "uint"}
PYTHON = {"int": "int64", "long": "int64", "half": "float16", "float": "float32",
          "double": "float64"}  # fmt: skip
NUMBERS = sorted(rules.REAL | {"bool"})
OTHERS = {"string", "qint8", "quint8", "qint16", "quint16", "qint32"}  # which libraries have too
NEAR = 0.8  # a letter or two
WORD, FEW = re.compile(r"[a-zA-Z]{2,}"), 3  # more words are no shape
PAGE = "what other libraries say is on the page docs/messages.md, with its causes"
ALONE = f"{PAGE}; explain reads the sizes in a message that is given alone: explain(message)"
NO_SIZES = f"{PAGE}; this one does not tell which sizes are whose: give those of your arrays"


class Shaped(NamedTuple):
    """What stands for an array."""

    library: str | None  # None: not told
    shape: Shape | None
    dtype: str | None


def shaped(name: str, text: str, prose: str = ALONE) -> Shaped:
    """What a text stands for; `OptionError` if that is no array, with `prose` for sentences."""
    library, dtype, sizes = _parts(name, text, prose)
    if dtype is not None:
        dtype = _full_name(dtype)
        _refuse_misspelt(name, text, dtype)
    if sizes.strip() == "...":
        return Shaped(library, None, dtype)
    sizes = sizes.strip().removesuffix(",")
    parts = [part.strip() for part in sizes.split("," if "," in sizes else None)]
    return Shaped(library, () if parts in ([], [""]) else sizes_of(name, text, parts), dtype)


def _parts(name: str, text: str, prose: str) -> tuple[str | None, str | None, str]:
    """The library, the dtype and the sizes that a text tells."""
    printed = PRINTED.fullmatch(text)
    library = next((PRINTS[word] for word in PRINTS if word in text), None)
    if printed is not None:
        dtype = DTYPE.search(printed["rest"])
        return library, None if dtype is None else dtype[1], printed["sizes"]
    whole, text = text, _bare(text)
    paired = PAIRED.fullmatch(text)
    if paired is not None:
        return library, paired["dtype"], paired["sizes"]
    if SIZES.fullmatch(text):
        return library, None, text
    enclosed = ENCLOSED.fullmatch(text)
    match = TEXT.fullmatch(text if enclosed is None else enclosed[2])
    if match is None:
        raise OptionError(unreadable(name, whole, prose))
    return match[1] or library, match[2], match[3]


def _bare(text: str) -> str:
    """A text without what people write around a shape."""
    for around in (CALLED, NOUN):
        found = around.match(text)
        text = text[found.end() :] if found is not None else text
    return TIMES.sub(",", THOUSANDS.sub("", text)) if TIMES.search(text) else text


def _full_name(dtype: str) -> str:
    short = re.fullmatch(r"(bf|f|i|s|u)(\d+)", dtype)
    return SHORT[short[1]] + short[2] if short else PYTHON.get(dtype, dtype)


def _refuse_misspelt(name: str, text: str, dtype: str) -> None:
    """`OptionError` for a name whose letters are those of no dtype, and nearly those of one."""
    if dtype in OTHERS or _letters(dtype) in set(map(_letters, NUMBERS)):
        return  # libraries have other numbers of bits
    close = get_close_matches(dtype, NUMBERS, cutoff=NEAR)
    if close:
        told = f"there is no dtype {dtype}, but {', '.join(close)}."
        raise OptionError(hinted(unreadable(name, text), told))


def _letters(dtype: str) -> str:
    return re.sub(r"\d", "", dtype)


def sizes_of(name: str, whole: Any, sizes: Sequence[Any]) -> Shape:
    """The sizes as the rules know them; `OptionError`, of the whole, if they are none."""
    shape = tuple(map(_size, sizes))
    known = [size for size in shape if size is not None]
    if any(size < 0 for size in known) or math.prod(max(size, 1) for size in known) > LARGEST:
        raise OptionError(unreadable(name, whole))
    return shape


def _size(size: Any) -> Size:
    """A size, or a number that none has."""
    if size is None or (isinstance(size, str) and size in UNKNOWN):
        return None
    if isinstance(size, str):
        is_size = size.isdecimal() and len(size) < DIGITS and str(int(size)) == size
        return int(size) if is_size else -1
    found = rules.integer(size)
    return -1 if found is None else found


def unreadable(name: str, value: Any, prose: str = ALONE) -> str:
    """The message of what is neither an array nor a shape; `prose` is said of whole sentences."""
    wanted = 'an array, or a shape such as "float32[32, 10]" or (32, 10)'
    told = messages.option(name, value, wanted)
    is_prose = isinstance(value, str) and len(WORD.findall(value)) > FEW
    return hinted(told, prose) if is_prose else told
