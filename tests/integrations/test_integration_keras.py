"""`unified_loss.integrations.keras` in Keras's own trainer, on each of Keras's backends.

Keras takes one backend for the life of a process, so each has a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import selected
from tests.helpers.backends import BACKENDS

pytest.importorskip("keras")

ROOT = Path(__file__).parents[2]
ON_TENSORFLOW = "replicas_add_up"
CHECKS = (
    "steps_of_every_kind_of_labels",
    "weights_of_fit",
    "compiled_steps",
    "fit_learns",
    "masked_tokens",
    "reductions_are_those_of_keras",
    "examples_are_counted_from_labels",
    "class_ids_are_never_rounded",
    "saved_models_load",
    "configurations_are_json",
    "bad_options_are_refused_at_once",
    "mistakes_in_batches",
    "a_softmax_is_noticed",
    "a_softmax_is_noticed_behind_what_moves_numbers",
    "a_softmax_is_told_once",
    "a_softmax_is_noticed_on_any_output",
    "a_sigmoid_is_noticed",
    "the_function_alone_is_refused",
    "the_loss_is_a_metric",
    "the_other_order_is_told_in_the_words_of_keras",
    "layers_are_those_of_keras",
    "a_check_that_sees_nothing_is_refused",
    "words_of_keras_are_answered",
    "weights_may_keep_the_class_axis",
    "warnings_name_the_line_of_fit",
    ON_TENSORFLOW,
)


@pytest.fixture(scope="module", params=["tensorflow", "jax", "torch"])
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What every check came to, with one backend of Keras."""
    backend = BACKENDS[request.param]
    if backend not in selected(request.config):
        pytest.skip(f"{backend.name} is not under test")
    path = tmp_path_factory.mktemp("keras") / "outcomes.json"
    environment = os.environ | {
        "KERAS_BACKEND": backend.name,
        "KERAS_HOME": str(path.parent),
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.helpers.keras_processes", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, str] = json.loads(path.read_text("utf-8"))
    assert {*found, ON_TENSORFLOW} == set(CHECKS)
    assert (ON_TENSORFLOW in found) == (backend.name == "tensorflow")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_keras(check: str, outcomes: dict[str, str]) -> None:
    """R4, R6 to R8, R14, R16, R17, R20, R23: each check of `keras_processes` holds."""
    if check not in outcomes:
        pytest.skip("only TensorFlow's strategies leave the mean over the replicas to the loss")
    assert outcomes[check] == ""
