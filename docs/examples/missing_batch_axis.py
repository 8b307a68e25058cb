"""Labels made without a batch axis: an error that names the axis, where others broadcast."""

import numpy as np

from unified_loss import ShapeError, cross_entropy

CLASSES = 10
BATCH = 32

draw = np.random.default_rng(0)
logits = draw.normal(size=(BATCH, CLASSES)).astype(np.float32)
digits = draw.integers(0, CLASSES, BATCH)

# Meant was one row per image; this is one row per class.
labels = np.eye(CLASSES, dtype=np.float32)
try:
    cross_entropy(logits, labels)
except ShapeError as error:
    print(f"stopped: {error}")
else:
    raise SystemExit(1)

labels = np.eye(CLASSES, dtype=np.float32)[digits]
print(f"one row per image: loss {float(cross_entropy(logits, labels)):.4f}")
