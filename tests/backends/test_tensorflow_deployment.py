"""TensorFlow beyond one process and one library call: export, replicas, determinism, Keras."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from tests.helpers.accuracy import assert_accurate
from tests.helpers.backends import BACKENDS, Backend
from tests.helpers.problems import sample
from unified_loss import BackendError, cross_entropy


@pytest.fixture(autouse=True)
def _under_test(installed: list[Backend]) -> None:
    if BACKENDS["tensorflow"] not in installed:
        pytest.skip("tensorflow is not under test")


@pytest.mark.parametrize("kind", ["index", "dense"])
def test_saved_model_keeps_loss_and_gradients(kind: Any, rng: Generator, tmp_path: Path) -> None:
    """R23: exported with an unknown batch, reloaded, it still gives gradients."""
    import tensorflow as tf

    class Model(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 5]),
                tf.TensorSpec([None], tf.int32) if kind == "index" else tf.TensorSpec([None, 5]),
            ]
        )
        def loss(self, logits: Any, labels: Any) -> Any:
            return cross_entropy(logits, labels, label_smoothing=0.25)

    tf.saved_model.save(Model(), str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for rows in (4, 7):
        problem = sample(rng, kind, batch=(rows,), label_smoothing=0.25)
        logits = tf.constant(problem.logits)
        with tf.GradientTape() as outer:
            outer.watch(logits)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                loss = loaded.loss(logits, tf.constant(problem.labels))
            slope = tape.gradient(loss, logits)
        assert_accurate(loss.numpy(), problem, "float32")
        assert_accurate(slope.numpy(), problem, "float32", "gradient")
        assert np.isfinite(outer.gradient(slope, logits)).all()


@pytest.mark.parametrize("name", ["mirrored", "deterministic"])
def test_process(name: str) -> None:
    """R14, R21, R23: the mean over `MirroredStrategy`'s replicas; bits under op determinism."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-W", "error", "-m", "tests.helpers.tensorflow_processes", name]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_keras_trains_with_it(policy: str, *, jit_compile: bool, rng: Generator) -> None:
    """R20, R23: a Keras step under mixed precision; the loss is float32 and falls."""
    import tensorflow as tf

    keras = tf.keras
    layer = keras.layers.Dense(3, dtype=keras.mixed_precision.Policy(policy))
    layer.build((None, 4))
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(layer.trainable_variables)
    inputs = tf.constant(rng.standard_normal((32, 4)), tf.float32)
    labels = tf.constant(np.argmax(inputs.numpy()[:, :3], -1))

    @tf.function(jit_compile=jit_compile)
    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = cross_entropy(layer(inputs), labels)
        slopes = tape.gradient(loss, layer.trainable_variables)
        optimizer.apply_gradients(zip(slopes, layer.trainable_variables, strict=True))
        return loss

    losses = [step() for _ in range(30)]
    assert losses[0].dtype == tf.float32
    assert losses[-1] < losses[0] / 2


def test_graphs_of_version_1_are_refused() -> None:
    """R2: where `==` compares identities, nothing is answered."""
    import tensorflow as tf

    with tf.Graph().as_default(), pytest.raises(BackendError, match=r"tf\.function"):
        cross_entropy(tf.zeros([2, 3]), tf.zeros([2], tf.int32))
