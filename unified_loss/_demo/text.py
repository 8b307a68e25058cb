"""A real text, word by word: what Python says of itself under `help`, which ships with it."""

import re
from typing import NamedTuple

import numpy as np

from unified_loss._libraries import HostArray

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[.,;:()]")
BATCH = 2048  # words of a step
BEFORE = 2  # words that the next one is predicted from
NUMBERS = 64  # of a word's vector


class Text(NamedTuple):
    """Class ids, one for each word, and a random vector for each class, which stays as it is."""

    ids: HostArray
    order: HostArray  # in which the places of the text are gone through
    vectors: HostArray
    batch: int = BATCH

    @property
    def features(self) -> int:
        """How many numbers stand for the words before one."""
        return BEFORE * self.vectors.shape[1]

    def step(self, number: int) -> tuple[HostArray, HostArray]:
        """The words before, as rows of their vectors, and the words themselves, of one step."""
        turn = number * self.batch + np.arange(self.batch)
        place = self.order[turn % len(self.order)]
        before = [self.vectors[self.ids[place - back]] for back in range(1, BEFORE + 1)]
        return np.concatenate(before, axis=1), self.ids[place]


def load_text() -> Text:
    """The topics of Python's `help`: 79,000 words, 3,100 different ones in Python 3.13."""
    from pydoc_data.topics import topics

    words = WORD.findall(" ".join(topics.values()).lower())
    vocabulary, ids = np.unique(np.array(words), return_inverse=True)
    rng = np.random.default_rng(0)
    order = BEFORE + rng.permutation(len(ids) - BEFORE)
    vectors = rng.normal(0, 1, (len(vocabulary), NUMBERS))
    return Text(ids.astype(np.int32), order, vectors.astype(np.float32))
