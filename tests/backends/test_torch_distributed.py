"""R2, R22 to R24 on `DTensor` logits, R33 on plain ones: two and four processes, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.backends import BACKENDS, Backend

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)

CHECKS = (
    "values_and_gradients",
    "only_numbers_of_rows_move",
    "totals_of_all",
    "rows_over_processes",
    "arguments_of_other_placements",
    "losses_stay_where_their_rows_are",
    "second_derivatives",
    "transforms",
    "odd_sizes",
    "half_precision_and_partial_sums",
    "mistakes",
    "split_values_and_gradients",
    "split_ids_that_keep_their_axis",
    "split_in_small_dtypes",
    "split_rows_that_do_not_count",
    "split_padded_vocabularies",
    "split_numbers_that_move",
    "split_derivatives",
    "split_under_compilers",
    "split_beside_rows",
    "split_where_loss_parallel_fails",
    "split_mistakes",
    "linear_values_and_gradients",
    "linear_rows_that_do_not_count",
    "linear_padded_vocabularies",
    "linear_numbers_that_move",
    "linear_in_small_dtypes",
    "linear_derivatives",
    "linear_under_compilers",
    "linear_of_placed_arguments",
    "linear_mistakes",
)


@pytest.fixture(scope="module", params=[2, 4])
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, str]]:
    """What every check came to, for each process."""
    world, folder = request.param, tmp_path_factory.mktemp("processes")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.helpers.torch_processes",
                str(rank),
                str(world),
                str(folder),
            ],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    found = [Path(folder, f"{rank}.json") for rank in range(world)]
    assert all(path.exists() for path in found), errors
    return [json.loads(path.read_text("utf-8")) for path in found]


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_sharded_logits(
    check: str, outcomes: list[dict[str, str]], installed: list[Backend]
) -> None:
    """R2, R16, R17, R22, R24, R33: each check of `torch_processes` holds in every process."""
    if BACKENDS["torch"] not in installed:
        pytest.skip("torch is not under test")
    assert set(outcomes[0]) == set(CHECKS)
    assert [outcome[check] for outcome in outcomes] == [""] * len(outcomes)
