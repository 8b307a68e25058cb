"""What hints offer: words, or lines of code that change the arguments of a call.

The text of an error is a `Told`, which has what it offers as data: the error makes its `fixes` of
them, so that what is printed and what a program reads are the same.
"""

from typing import Any, Literal, NamedTuple

Kind = Literal["same meaning", "conditional", "elsewhere"]


class Offer(NamedTuple):
    """One way to mend a call: what `Fix` says of itself, as plain data."""

    text: str
    code: str = ""
    kind: Kind = "elsewhere"

    def __str__(self) -> str:
        """The text, and the code."""
        return f"{self.text}: {self.code}" if self.code else self.text


class Told(str):  # noqa: SLOT000 (slots have no defaults)
    """The text of an error; what it offers, and the tag of the mistake, if the text tells it."""

    offers: tuple[Offer, ...] = ()
    cause: str | None = None


def told(text: str, *offers: Offer, cause: str | None = None) -> Told:
    """A text that says by itself what it offers."""
    found = Told(text)
    found.offers, found.cause = offers, cause
    return found


def hinted(text: str, *offers: Offer | str, cause: str | None = None) -> Told:
    """A text with a line of its own for each offer; mere words are done outside of the call."""
    given = [Offer(offer) if isinstance(offer, str) else offer for offer in offers]
    return told("".join([text, *(f"\n  hint: {offer}" for offer in given)]), *given, cause=cause)


def on_condition(condition: str, todo: str, code: str) -> Offer:
    """Code that is right if something is meant."""
    return Offer(f"if {condition}, {todo}", code, "conditional")


def converted(name: str, how: str, todo: str = "convert it first") -> Offer:
    """An argument in another form, that keeps what it says: an expression, or words on it."""
    try:
        compile(how, name, "eval")
    except SyntaxError:
        return Offer(f"{todo}: {how}")
    return Offer(todo, f"{name} = {how}", "same meaning")


# Tags of mistakes that a message tells by itself.
BY_NAME = "class_weight_as_dict"
MASKED = "masked_array"
MISSING = "labels_missing_values"
NAMES = "string_labels"
OTHER_KIND = "array_of_another_kind"
SWAPPED = "arguments_swapped"
WORD = "word_of_another_library"

NUMBERS = Offer("give numbers, lists of numbers or an array.")
SWAP = on_condition(
    "the labels came first", "swap the arguments", "logits, labels = labels, logits"
)
# Weights of classes by their names, and those that scikit-learn calls balanced, where the call
# does not tell enough to count or to look up.
OF_CLASSES = "class_weight = [class_weight.get(c, 1.0) for c in range(logits.shape[-1])]"
OF_COUNTS = "with the counts of each class: class_weight = counts.sum() / (len(counts) * counts)"
LOSS_OF_KERAS = (
    "from unified_loss.integrations.keras import CrossEntropy; "
    "model.compile(loss=CrossEntropy(), metrics=[CrossEntropy()])"
)
CLASS_IDS = "np.unique(labels, return_inverse=True)[1]"  # of class names
WHOLE = "these are the names of the whole data set"


def _unmasked_rows(name: str, what: str) -> Offer:
    """No weight for examples with an entry that is masked; without a call there is no axis."""
    condition = f"{what}, classes are on the last axis, and there is no other sample_weight"
    code = f"{name}, sample_weight = {name}.data, ~np.ma.getmaskarray({name}).any(-1)"
    return on_condition(condition, "give them no weight", code)


def _unmasked_weight(name: str) -> Offer:
    return on_condition("what is masked does not count", "fill it", f"{name} = {name}.filled(0)")


# What a masked argument of NumPy is to be instead, if it is floating, and if not.
UNMASKED = {
    ("logits", True): (
        on_condition("classes are masked", "fill them", "logits = logits.filled(-np.inf)"),
        _unmasked_rows("logits", "examples are masked"),
    ),
    ("labels", True): (_unmasked_rows("labels", "rows are masked"),),
    ("labels", False): (  # an unsigned integer of few bits would make a class of -100
        on_condition(
            "these are class ids and ignore_index is -100, its default",
            "mark them with it",
            "labels = np.where(np.ma.getmaskarray(labels), -100, labels.data.astype(int))",
        ),
        _unmasked_rows("labels", "these are rows"),
    ),
    **{
        (name, is_floating): (_unmasked_weight(name),)
        for name in ("class_weight", "sample_weight")
        for is_floating in (True, False)
    },
}


def unmasked(name: str, dtype: Any) -> tuple[Offer, ...]:
    """What a masked argument of a dtype is to be instead."""
    return UNMASKED.get((name, str(dtype).startswith("float")), ())


def balanced(code: str | None) -> Offer:
    """Weights that are made of the labels of the call, where these tell how."""
    if code is None:
        return Offer(OF_COUNTS)
    return on_condition("these are all the labels that there are", "count them", code)


# What others call a reduction; a word that is one here, but for its letters, is no other.
REDUCTIONS = {
    "mean": {"average", "avg", "auto", "batchmean", "elementwise_mean", "mean_with_sample_weight",
             "sum_by_nonzero_weights", "sum_over_batch_size", "sum_over_nonzero_weights", "true"},
    "none": {"false", "no", "off"},
    "sum": {"add", "total"},
}  # fmt: skip
MEANT = {
    "mean": "the mean over the examples that count is meant",
    "none": "a loss for each example is meant",
    "sum": "the sum over the examples is meant",
}


def reduction(value: Any) -> Offer | None:
    """The reduction that is called otherwise elsewhere."""
    word = str(value).lower() if isinstance(value, str | bool | None) else ""
    found = next((ours for ours, words in REDUCTIONS.items() if word in {ours, *words}), None)
    return None if found is None else on_condition(MEANT[found], "say so", f"reduction={found!r}")
