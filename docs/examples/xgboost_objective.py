"""Boosted trees whose multi-class objective is `cross_entropy_with_grad`, and XGBoost's own.

XGBoost asks an objective for the gradient and the hessian of the summed loss, hence
``reduction="sum"``. It takes a row's hessian as a diagonal; its own softmax objective uses
2 p (1 - p), twice the true diagonal.
"""

import numpy as np
import xgboost
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from unified_loss import cross_entropy, cross_entropy_with_grad

CLASSES = 10


def softmax_objective(scores, data):
    """Gradient and hessian of the cross-entropy, for scores of shape (N, C)."""
    labels = data.get_label().astype(int)
    weights = data.get_weight() if data.get_weight().size else np.ones(len(labels), np.float32)
    _, gradient = cross_entropy_with_grad(scores, labels, reduction="sum")
    p = gradient + np.eye(CLASSES, dtype=np.float32)[labels]
    return gradient * weights[:, None], 2 * p * (1 - p) * weights[:, None]


images, digits = load_digits(return_X_y=True)
split = train_test_split(images, digits, test_size=0.3, random_state=0, stratify=digits)
train = xgboost.DMatrix(split[0], split[2])
test = xgboost.DMatrix(split[1], split[3])
options = {"num_class": CLASSES, "max_depth": 3, "base_score": 0, "nthread": 1}

ours = xgboost.train(options, train, num_boost_round=10, obj=softmax_objective)
own = xgboost.train(options | {"objective": "multi:softprob"}, train, num_boost_round=10)

scores, expected = (model.predict(test, output_margin=True) for model in (ours, own))
first = cross_entropy(np.zeros_like(scores), split[3])
last = cross_entropy(scores, split[3])
print(f"loss {first:.6f} -> {last:.6f}, accuracy {np.mean(scores.argmax(1) == split[3]):.4f}")
print(f"largest difference from XGBoost's own objective {np.abs(scores - expected).max():.1e}")
assert last < first / 2
assert np.allclose(scores, expected, rtol=0, atol=1e-4)
