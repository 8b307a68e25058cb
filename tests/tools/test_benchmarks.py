"""The benchmarks run from end to end; what they measure is not for a test to judge."""

import csv
import doctest
import functools
import importlib
import itertools
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import benchmarks.__main__ as command
from benchmarks import draws, frameworks, grid, imports, measure, report, results
from benchmarks.cases import (
    BOTH,
    COMBINED,
    COMPILED,
    DIRECTIONS,
    EACH,
    FLOAT,
    FORWARD,
    HALF,
    OURS,
    PACKAGES,
    PLAIN,
    TWO_STEPS,
    Case,
    all_cases,
    device_cases,
)
from benchmarks.draws import MODES, drawn
from benchmarks.inputs import IGNORED, host_inputs
from benchmarks.limits import LIMITS, Limit, limit_of
from benchmarks.measure import Bench, Effort
from benchmarks.timers import EventTimer
from tests.helpers.backends import BACKENDS

SHORT = Effort(seconds=0, least_rounds=2)
FOLDER = Path(results.__file__).parent
# Compiling takes seconds a case, and changes no value.
SMALL = sorted({case.small() for case in all_cases() if case.mode not in {"compiled", "xla"}})
# A program of JAX takes a second to compile: a few show that its peer is one.
DRAWN = {name: 10 if mode == "compiled" else 40 for name, mode in MODES.items()}
PEERS = [c for c in SMALL if c.kind != "option"]
LINEAR = [c for c in PEERS if c.kind == "linear" and c.direction == BOTH and c.peer != PLAIN]
ON_DEVICE = dict.fromkeys(c.small() for c in device_cases())
PEERS += [c for c in ON_DEVICE if c.peer not in {PLAIN, COMPILED}]
PEERS += dict.fromkeys(c.small() for name, number in DRAWN.items() for c in drawn(name, number, 1))


@functools.cache
def framework(name):
    """A framework in this process, not in its own."""
    return frameworks.load(name, "cpu")


def test_cases_have_a_name_each():
    """A name finds one row in the results."""
    names = [case.name for case in (*all_cases(), *device_cases())]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", LIMITS)
def test_every_limit_is_measured(row):
    """No limit is about a case that the table does not have."""
    cases = [case for case in all_cases() if row.fits(case)]
    assert any(limit_of(case) in {row.forward, row.both} for case in cases)


@pytest.mark.parametrize(
    ("case", "limit"),
    [
        (Case("time", "torch", (4096, 32000), "F.cross_entropy"), Limit(0.22, memory=0.1)),
        (Case("time", "torch", (512, 128256), "F.cross_entropy"), Limit(0.22, memory=0.1)),
        (Case("time", "torch", (4096, 32000), FLOAT, dtype="bfloat16"), Limit(0.2, memory=0.2)),
        (Case("time", "torch", (65536, 10), "F.cross_entropy", direction=BOTH), Limit(0.4)),
        (Case("time", "torch", (16384, 1000), "F.cross_entropy", labels="dense"), Limit(0.5)),
        (Case("time", "torch", (16384, 1000), "F.cross_entropy", options=COMBINED), Limit()),
        (
            Case("time", "torch", (8, 21, 256, 256), "F.cross_entropy", "compiled"),
            Limit(1.05, memory=1.05, memory_of="peer"),
        ),
        (
            Case("time", "jax", (128, 10), "optax", "compiled"),
            Limit(1.05, memory=1, memory_of="peer"),
        ),
        (Case("time", "jax", (128, 10), "optax"), Limit(0.1)),
        (Case("time", "tensorflow", (128, 10), "tf.nn", "xla"), Limit(1.05, memory_of="peer")),
        (Case("time", "tensorflow", (128, 10), "keras"), Limit()),
        (Case("time", "numpy", (4096, 32000), "scipy"), Limit(0.35, memory=0.05)),
        (Case("time", "numpy", (4096, 32000), "F.cross_entropy", direction=BOTH), Limit(0.7)),
        (Case("added", "tensorflow", (128, 10), "tf.nn"), Limit(added_us=30)),
        (
            Case("linear", "torch", (2048, 32000), TWO_STEPS, direction=BOTH, features=768),
            Limit(0.95, memory=0.25),
        ),
    ],
)
def test_limits_are_those_that_were_set(case, limit):
    """A case keeps to the first row of the table that is about it."""
    assert limit_of(case) == limit


def test_busy_limits_let_large_losses_stay_ahead():
    """On a busy machine 1.1 is enough for all but the large ones that were ahead."""
    small, large = (
        Case("time", "torch", shape, "F.cross_entropy") for shape in ((1024, 1000), (4096, 32000))
    )
    assert limit_of(small, busy=True).ratio == 1.1
    assert limit_of(large, busy=True).ratio == 1.0


def test_inputs_have_what_the_case_asks_for():
    """Shapes, labels and options are those of the case, and the same each time."""
    case = Case("time", "torch", (200, 7, 3, 2), "F.cross_entropy", options=COMBINED)
    inputs = host_inputs(case)
    assert inputs.logits.shape == case.shape
    assert inputs.labels.shape == (200, 3, 2)
    assert 0 < (inputs.labels == IGNORED).mean() < 0.2
    assert inputs.class_weight.shape == (7,)
    assert inputs.sample_weight is None
    assert np.array_equal(inputs.logits, host_inputs(case).logits)
    dense = host_inputs(case._replace(labels="dense", options=()))
    assert np.allclose(dense.labels.sum(1), 1)


def test_inputs_of_the_linear_form_are_those_of_its_logits():
    """Hidden states and a weight in place of logits; half of the labels do not count if asked."""
    case = Case("linear", "torch", (40, 30), TWO_STEPS, features=8, options=(HALF, EACH))
    inputs = host_inputs(case)
    assert inputs.logits.shape == (40, 8)
    assert inputs.weight.shape == (30, 8)
    assert (inputs.labels == IGNORED).sum() == 20
    assert inputs.upstream.shape == (40,)
    assert case.result_bytes == 0
    assert case._replace(direction=BOTH).result_bytes == 4 * (40 * 8 + 30 * 8)


@pytest.mark.parametrize("case", LINEAR, ids=lambda c: c.name)
def test_gradients_of_the_linear_form_are_those_of_its_peer(case):
    """All that is timed is the same: gradients in hidden states and in the weight."""
    if not frameworks.is_installed(case.framework):
        pytest.skip(f"{case.framework} is not installed")
    bench = framework(case.framework)
    inputs = bench.inputs(case, host_inputs(case))
    slopes = [flattened(bench.step(case, name, inputs)()[1:]) for name in (OURS, case.peer)]
    for ours, peers in zip(*slopes, strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(peers), rtol=1e-4, atol=1e-6)


def flattened(gradients):
    """The gradients one after the other, however a framework groups them."""
    if len(gradients) == 1 and isinstance(gradients[0], list | tuple):
        gradients = gradients[0]
    return [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("case", PEERS, ids=lambda c: c.name)
def test_peers_compute_the_same_loss(case):
    """A peer that does something else would be no peer."""
    homes = {name: case.home(name) for name in (OURS, case.peer)}
    for home in homes.values():
        if not frameworks.is_installed(home):
            pytest.skip(f"{home} is not installed")
    pytest.importorskip(PACKAGES.get(case.peer, "benchmarks"))
    values = []
    for name, home in homes.items():
        bench = framework(home)
        step = bench.step(case, name, bench.inputs(case, host_inputs(case)))
        result = step()
        bench.wait(result)
        values.append(bench.value(result))
    measure._check_agreement(case, values)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_random_cases_are_measured_and_judged(name, tmp_path, monkeypatch, capsys):
    """From the command line to table, plot and distribution; what is drawn is small here."""
    if not BACKENDS[name].is_installed():
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(draws, "MOST", 100)
    monkeypatch.setattr(command, "DRAWN", SHORT)
    folders = "--results", str(tmp_path), "--plots", str(tmp_path)
    grid_of = ["--grid", "--seed", "7", "--only", name, *folders]
    older = tmp_path / "grid" / f"{name}.csv"
    results.write([{"case": "of another seed"}], older, results.GRID_COLUMNS)
    assert command.main(["run", *grid_of, "--cases", "2"]) == 0
    rows = list(results.read(tmp_path / "grid" / f"{name}.csv"))
    assert [row["case"] for row in rows] == [case.name for case in drawn(name, 2, 7)]
    assert all(row["ours_low_ms"] <= row["ours_ms"] and row["ratio"] > 0 for row in rows)
    assert ET.parse(tmp_path / "grid.svg")  # noqa: S314
    assert f"Random cases, {name}: 2 of seed 7" in capsys.readouterr().out
    assert command.main(["report", *grid_of]) == 0
    assert command.main(["run", *grid_of, "--seconds", "0"]) == 0  # no time for any
    assert command.main(["list", *grid_of, "--cases", "1"]) == 0
    assert capsys.readouterr().out.endswith(f"{rows[0]['case']}\n")


@pytest.mark.parametrize("framework", MODES)
def test_draws_reach_every_kind(framework):
    """Sizes within their bounds, and each layout, option and direction that the library has."""
    cases = drawn(framework, 300, seed=3)
    assert cases == drawn(framework, 300, seed=3) != drawn(framework, 300, seed=4)
    assert all(case.num_classes >= 2 and case.size <= draws.MOST for case in cases)
    assert min(case.size for case in cases) < 100 < 10**7 < max(case.size for case in cases)
    rows = [case._asdict() | {"axis": str(case.axis)} for case in cases]
    found = {grid.kind_of(row | {"options": "+".join(row["options"])}) for row in rows}
    missing = set() if framework in draws.HALVES else {"bfloat16"}
    missing |= set() if framework in draws.STRIDED else {"strided"}
    assert found == set(grid.KINDS) - missing
    assert {case.direction for case in cases} == set(DIRECTIONS)
    assert {case.options for case in cases} == {(), COMBINED, *((each,) for each in COMBINED)}


def test_a_random_case_is_over_a_bar_at_both_quartiles():
    """What a call is allowed is taken off, and one noisy number says nothing."""
    row = {
        "case": "a",
        "note": "",
        "seed": "0",
        "framework": "torch",
        "peer": "F.cross_entropy",
        "device": "CPU",
        "labels": "index",
        "options": "",
        "direction": FORWARD,
        "shape": "1000x1000",
        "ours_ms": 1.308,
        "peer_ms": 1.0,
        "ratio": 1.308,
        "ours_low_ms": 0.608,
        "peer_low_ms": 0.5,
    }
    assert grid.net(row) == pytest.approx(1.2)
    assert grid.net(row | {"ours_low_ms": 0.508}) == pytest.approx(1.0)
    text = grid.text([row, row | {"shape": "3x3", "ratio": 1.0, "ours_ms": 1.0}])
    assert "! geometric mean of 1 from 200,000 logits on: 1.31 (bar 0.75)" in text
    assert "! above 1.15: 50.0% (bar 2%)" in text
    assert "  above 1.3: 0.0% (bar none)" in text
    failed = row | {"ratio": None, "note": "KeyError: it failed"}
    assert "a: KeyError: it failed" in grid.text([failed])


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_run_writes_tables_and_plots(name, tmp_path, monkeypatch, capsys):
    """From the command line to the files that the docs show, on a few logits."""
    if not BACKENDS[name].is_installed():
        pytest.skip(f"{name} is not installed")
    peer = {"numpy": "scipy", "torch": "F.cross_entropy"}[name]
    sizes = (10, 1000, 2000)
    cases = [
        Case("time", name, (4000, 1000), peer, memory=True),  # enough to be seen
        *(Case("scaling", name, (size, 1000), peer) for size in sizes),
    ]
    monkeypatch.setattr(command, "all_cases", lambda _: cases)
    monkeypatch.setattr(command, "Effort", lambda: SHORT)
    folders = "--results", str(tmp_path), "--plots", str(tmp_path)
    assert command.main(["--only", name, "--case", "*", *folders]) == 0
    rows = list(results.read(tmp_path / f"{name}.csv"))
    assert [row["case"] for row in rows] == [case.name for case in cases]
    assert all(row["ours_ms"] > 0 and row["peer_ms"] > 0 for row in rows)
    assert rows[0]["ours_mb"] is not None or not measure.memory.is_measurable()
    assert f"{name} " in rows[0]["versions"]
    drawn = {file.stem for file in tmp_path.glob("*.svg") if ET.parse(file)}  # noqa: S314
    expected = {"ratio", "memory", "scaling"}
    assert drawn == (expected if measure.memory.is_measurable() else expected - {"memory"})
    assert f"{name} eager forward, more examples: " in capsys.readouterr().out


def test_device_has_a_table_of_its_own(tmp_path, monkeypatch, capsys):
    """The command for an accelerator, on a few logits of the processor: times beside a copy."""
    pytest.importorskip("torch")
    monkeypatch.setattr(command, "Bench", lambda _, **options: Bench("cpu", **options))
    monkeypatch.setattr(command, "ON_DEVICE", SHORT)
    monkeypatch.setattr(measure.memory, "is_measurable", lambda: False)  # by a process each, here
    chosen = "--only", "torch", "--case", "device*forward+backward 8x262144 bfloat16*vs [FLu]*"
    given = [*chosen, "--device", "cuda", "--tiny", "--results", str(tmp_path)]
    assert command.main(["run", *given]) == 0
    rows = list(results.read(tmp_path / "torch-cuda.csv"))
    assert {row["peer"] for row in rows} == {"F.cross_entropy", FLOAT, "Liger", PLAIN}
    measured = [row for row in rows if row["peer"] != "Liger" or not row["note"]]
    assert all(row["ours_gbs"] > 0 and row["copy_gbs"] > 0 for row in measured)
    assert {row["options"] for row in rows} >= {"", "+".join(COMBINED)}
    assert " GB/s" in capsys.readouterr().out
    assert command.main(["run", *given, "--seconds", "0"]) == 0  # no time for any


def test_a_device_is_timed_by_its_events():
    """Two events around all calls, in the queue, and one look when the last has come."""
    log, clock = [], iter((1.0, 4.0))

    class Event:
        def record(self):
            self.time = next(clock)
            log.append("record")

        def synchronize(self):
            log.append("synchronize")

        def elapsed_time(self, end):
            return (end.time - self.time) * 1e3

    timer = EventTimer(Event, lambda _: log.append("wait"))
    assert timer.seconds(lambda: log.append("call"), number=3) == 1.0
    assert log == ["wait", "record", "call", "call", "call", "record", "synchronize"]


def test_cases_of_the_same_arguments_follow_each_other():
    """Arrays of a gigabyte are not made anew for each peer."""
    data = [case.data for case in device_cases() if not case.options and case.labels == "index"]
    runs = [key for key, _ in itertools.groupby(data)]
    assert len(runs) == len(set(runs))


def test_failure_is_a_note_and_stops_nothing(tmp_path):
    """A case that cannot be measured says why, and the next one is measured."""
    case = Case("time", "numpy", (4, 3), "scipy")
    with Bench(effort=SHORT) as bench:
        rows = [bench.row(each) for each in (case._replace(peer="no such peer"), case)]
    file = tmp_path / "numpy.csv"
    results.write(rows, file)
    failed, measured = results.read(file)
    assert failed["ours_ms"] is None
    assert failed["note"] == "KeyError: 'no such peer'"
    assert measured["ours_ms"] > 0
    assert f"{case.name.replace('scipy', 'no such peer')}: KeyError" in report.report([failed])


def test_disagreement_is_no_result():
    """Two losses with different values are not compared."""
    case = Case("time", "numpy", (4, 3), "scipy")
    with pytest.raises(measure.DisagreementError, match="4x3"):
        measure._check_agreement(case, [1.0, 1.1])


def test_busy_process_ends():
    """The load is gone after the measurement."""
    with measure.kept_busy() as process:
        assert process.is_alive()
    assert not process.is_alive()


def test_busy_results_are_kept_apart(tmp_path):
    """A row of a busy machine or of a GPU never gets among those of a quiet CPU."""
    row = {"case": "a", "kind": "time", "ours_ms": 1.0}
    kinds = [("cpu", False), ("cpu", True), ("cuda", False), ("cuda", True)]
    for device, busy in kinds:
        file = results.file_of("torch", device, busy=busy, folder=tmp_path)
        results.write([row | {"note": file.stem}], file)
    for device, busy in kinds:
        (found,) = results.read_all(device, busy=busy, folder=tmp_path)
        assert found["note"] == results.file_of("torch", device, busy=busy).stem


def test_rows_are_replaced_by_newer_ones(tmp_path):
    """Measuring a case again leaves the others."""
    file = tmp_path / "torch.csv"
    results.write([{"case": "a", "ours_ms": 1.0}, {"case": "b", "ours_ms": 2.0}], file)
    results.write([{"case": "a", "ours_ms": 3.0}], file)
    assert {row["case"]: row["ours_ms"] for row in results.read(file)} == {"a": 3.0, "b": 2.0}


@pytest.mark.parametrize(
    ("numbers", "limit", "holds"),
    [
        ({"ratio": 0.5}, Limit(ratio=0.5), "yes"),
        ({"ratio": 0.51}, Limit(ratio=0.5), "no"),
        ({"ratio": 0.51}, Limit(), ""),
        ({"ratio": 2.0, "ours_ms": 301.0}, Limit(3, ours_ms=300), "no"),
        ({"added_us": -2.0}, Limit(added_us=6), "yes"),
        ({"ratio": 1.0, "ours_mb": 12.0, "logits_mb": 10.0}, Limit(1, memory=1.1), "no"),
        ({"ratio": 1.0, "ours_mb": 12.0, "peer_mb": 12.0}, Limit(1, None, None, 1, "peer"), "yes"),
        ({"ratio": 1.0, "ours_mb": None, "logits_mb": 10.0}, Limit(1, memory=0.1), "yes"),
    ],
)
def test_row_keeps_all_of_its_limits_or_not(numbers, limit, holds):
    """One broken limit is enough, and what was not measured says nothing."""
    assert results.judged(numbers, limit)["holds"] == holds


def test_report_marks_what_is_over_its_limit():
    """A broken limit and a wrong slope stand out."""
    rows = [
        {
            "case": f"{shape}",
            "kind": "scaling",
            "framework": "numpy",
            "mode": "eager",
            "direction": FORWARD,
            "shape": shape,
            "ours_ms": time,
            "peer_ms": None,
            "ratio": None,
            "ours_mb": None,
            "limit": "1 ms",
            "memory_limit": "",
            "note": "",
            "holds": "no" if time > 1 else "yes",
        }
        for shape, time in (("1000x1000", 1.0), ("10000x1000", 20.0))
    ]
    text = report.report(rows)
    assert "1 of 2 rows" in text
    assert "! 10000x1000: 20 ms (over 1 ms)" in text
    assert "  1000x1000: 1 ms (keeps 1 ms)" in text
    assert "! numpy eager forward, more examples: 1.301" in text


def test_report_tells_each_bar_of_a_row():
    """Which of several are kept, of time and of memory."""
    row = dict.fromkeys(("note", "shape"), "") | {"kind": "time", "case": "a"}
    row |= {"ours_ms": 2.0, "ratio": 0.5, "added_us": -9.0, "ours_mb": 3.0, "logits_mb": 2.0}
    limit = Limit(ratio=0.6, added_us=-10, memory=1.1)
    text = report.report([results.judged(row, limit), row | {"holds": ""}])
    assert "0 of 1 rows keep theirs; 1 more have none" in text
    assert "! a: 2 ms; 0.5x, -9 us; 3 MB (keeps 0.6x, over -10 us, over 1.1x logits)" in text


def test_import_is_measured():
    """The row has the time of both interpreters, and what was loaded."""
    row = imports.row(rounds=1)
    assert row["ours_ms"] > 0
    assert "unified_loss" in row["note"]


def test_device_and_framework_choose_cases():
    """On a GPU only what runs there, against what runs there."""
    options = command.parser().parse_args(["--device", "cuda", "--only", "torch"])
    chosen = command.selected(options)
    assert {case.framework for case in chosen} == {"torch"}
    options = command.parser().parse_args(["--quick", "--case", "*scipy"])
    assert {case.peer for case in command.selected(options)} == {"scipy"}


def test_committed_results_are_of_the_table():
    """A row whose case is gone, or whose columns are old, would be drawn all the same."""
    cases = (*all_cases(), *device_cases())
    names = {case.name for case in cases} | {"import unified_loss vs bare interpreter"}
    files = sorted(results.HERE.glob("*.csv"))
    assert files
    for file in files:
        with file.open(encoding="utf-8", newline="") as stream:
            device = "cuda" if "-cuda" in file.name else "cpu"
            assert tuple(next(csv.reader(stream))) == results.columns_of(device)
        assert {row["case"] for row in results.read(file)} <= names
        assert {row["direction"] for row in results.read(file)} <= {*DIRECTIONS, ""}


@pytest.mark.parametrize(
    "module",
    ["cases", "draws", "frameworks", "grid", "inputs", "limits", "measure", "report", "results",
     "timers"],
)  # fmt: skip
def test_examples_run(module):
    """The docstrings of the benchmarks hold."""
    found = doctest.testmod(importlib.import_module(f"benchmarks.{module}"))
    assert found.failed == 0
