"""An LSTM that tags every token: logits (N, L, C), labels (N, L), and no transpose.

The text is the Zen of Python without its spaces; the tag of a letter says whether a word begins
there, goes on, ends, or is that one letter.
"""

import codecs
import contextlib
import io

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from unified_loss import cross_entropy

with contextlib.redirect_stdout(io.StringIO()):
    import this

BEGINS, GOES_ON, ENDS, SINGLE = range(4)
PADDING = -100  # cross_entropy leaves these out: it is the default of ignore_index


def tags_of(word):
    """One tag per letter."""
    if len(word) == 1:
        return [SINGLE]
    return [BEGINS, *[GOES_ON] * (len(word) - 2), ENDS]


class Tagger(nn.Module):
    """Letters in, one row of logits per letter out."""

    def __init__(self, letters, tags, width=32):
        super().__init__()
        self.embedding = nn.Embedding(letters, width)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.to_logits = nn.Linear(2 * width, tags)

    def forward(self, letters):
        """From (N, L) to (N, L, C)."""
        states, _ = self.lstm(self.embedding(letters))
        return self.to_logits(states)


torch.manual_seed(0)
lines = [line.lower().split() for line in codecs.decode(this.s, "rot13").splitlines() if line]
letters = [torch.tensor(list("".join(words).encode())) for words in lines]
labels = [torch.tensor([tag for word in words for tag in tags_of(word)]) for words in lines]
letters = pad_sequence(letters, batch_first=True)
labels = pad_sequence(labels, batch_first=True, padding_value=PADDING)

model = Tagger(letters=128, tags=4)
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
losses = []
for _ in range(40):
    logits = model(letters)
    loss = cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

counted = labels != PADDING
accuracy = (logits.argmax(-1) == labels)[counted].double().mean().item()
print(f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)}")
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, {accuracy:.0%} of the tags right")
assert losses[-1] < losses[0] / 2
