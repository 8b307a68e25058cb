"""Causes that an error tells by itself, with its hint, before there is anything to diagnose."""

from unified_loss import _offered as offered
from unified_loss._diagnosis._table import HINT_CAUSES, hint_cause

__all__ = ["HINT_CAUSES"]

hint_cause(
    offered.WORD,
    "a word of another library",
    "An argument, or a value of one, as another library calls it.",
    example="np.zeros((2, 3)), [0, 2], weight=[1.0, 2.0, 1.0]",
)
hint_cause(
    offered.OTHER_KIND,
    "an array of another kind",
    "Numbers that are held by no array of the logits' library, or elsewhere: a list or a table of "
    "logits, a tensor of another library or device, a sparse matrix.",
    example="[[0.5, 1.0, 0.0], [2.0, 0.0, 1.0]], [1, 0]",
)
hint_cause(
    offered.MASKED,
    "a masked array",
    "An array of `numpy.ma`: what is masked would count.",
    example="np.zeros((2, 3)), np.ma.masked_array([1, 0], [False, True])",
)
