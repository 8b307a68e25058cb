"""A small Keras CNN on images of digits, with integer labels, trained in a GradientTape loop."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

from unified_loss import cross_entropy

keras.utils.set_random_seed(0)
images, digits = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
batches = tf.data.Dataset.from_tensor_slices((images, digits)).shuffle(1797, seed=0).batch(128)

model = keras.Sequential(
    [
        layers.Input((8, 8, 1)),
        layers.Conv2D(16, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(10),
    ]
)
optimizer = keras.optimizers.Adam(0.01)


@tf.function
def train_step(batch, labels):
    """One step; `labels` are the digits themselves, not one-hot rows."""
    with tf.GradientTape() as tape:
        logits = model(batch, training=True)
        loss = cross_entropy(logits, labels)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return loss


first = cross_entropy(model(images), digits)
for epoch in range(3):
    for batch, labels in batches:
        loss = train_step(batch, labels)
    print(f"epoch {epoch + 1}: loss {float(loss):.4f} on the last batch")
last = cross_entropy(model(images), digits)
print(f"loss on all images {float(first):.4f} -> {float(last):.4f}")
assert float(last) < float(first) / 2
