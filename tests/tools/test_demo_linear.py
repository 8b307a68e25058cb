"""`python -m unified_loss demo --linear`: a language model, its loss with logits and without."""

import re
from typing import Any

import numpy as np
import pytest

from unified_loss import _libraries as libraries
from unified_loss.__main__ import main
from unified_loss._demo import memory
from unified_loss._linear import _walks as walks

pytest.importorskip("rich", reason="the demo needs the extra 'demo'")

from unified_loss._demo import heads, report, text, training


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> text.Text:
    """A text of a few words, whose logits are many all the same."""
    whole = text.load_text()
    vectors = whole.vectors[:40]
    found = text.Text(whole.ids[:200] % 40, whole.order % 190 + 2, vectors, batch=16)
    monkeypatch.setattr(text, "load_text", lambda: found)
    monkeypatch.setattr(walks, "TWO_STEPS", 0)
    monkeypatch.setattr(heads, "RATE", 0.5)
    return found


def rows_of(output: str) -> dict[str, list[str]]:
    """The numbers of each line of the table that starts with the name of a library."""
    found = {}
    for line in output.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        if cells[0] in libraries.known_names() and len(cells) > 8:
            found[cells[0]] = cells[-8:]
    return found


@pytest.mark.usefixtures("few_words")
def test_every_library_trains_alike_in_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    """With logits and without, each installed library follows NumPy's curve."""
    assert main(["demo", "--linear", "--steps", "2"]) == 0
    output = capsys.readouterr().out
    rows = rows_of(output)
    assert list(rows) == list(libraries.installed_names())
    assert "by classes" in output
    for before, after, *memories, _, _, to_logits, to_numpy in rows.values():
        assert float(after) < float(before)
        assert max(float(to_logits), float(to_numpy)) < 1e-5
        assert all(one.isdecimal() for one in memories) or not memory.is_measurable()


@pytest.mark.usefixtures("few_words")
def test_plot_and_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    """The plot is a PNG with both memories; a curve that leaves NumPy's is exit code 1."""
    pytest.importorskip("matplotlib", reason="the plot needs the extra 'demo'")
    from matplotlib.axes import Axes

    drawn = []
    bar = Axes.bar
    monkeypatch.setattr(Axes, "bar", lambda self, *a, **k: drawn.append(a) or bar(self, *a, **k))
    arguments = ["demo", "--linear", "--steps", "1", "--backend", "numpy", "--plot"]
    monkeypatch.setattr(memory, "RESET", tmp_path / "missing")  # a system that does not tell
    assert main([*arguments, str(tmp_path / "curves")]) == 0
    assert (tmp_path / "curves").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert len(drawn) == len(heads.WAYS)
    assert rows_of(capsys.readouterr().out)["numpy"][2:4] == ["-", "-"]
    monkeypatch.setattr(report, "LARGEST_DIFFERENCE", 0.0)
    assert main(arguments[:-1]) == 1


def test_loss_in_both_ways_is_the_true_loss(few_words: text.Text) -> None:
    """The first loss of a run, and the gradients of both ways."""
    library = libraries.load("numpy")
    hidden, labels = few_words.step(0)
    hidden = hidden[:, : heads.FEATURES]
    head = heads.head_of(library, 40)
    ways = [head.loss_and_gradients(hidden, labels, way) for way in heads.WAYS]
    logits = hidden.astype(np.float64) @ head.weight.T + head.bias
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    for loss, gradients in ways:
        assert loss == pytest.approx(-log_softmax[np.arange(16), labels].mean(), abs=1e-6)
        for ours, other in zip(gradients, ways[0][1], strict=True):
            np.testing.assert_allclose(ours, other, atol=1e-6)
    run = training.train_heads(library, lambda: None, text=few_words, steps=1)
    assert set(run.curves) == set(heads.WAYS)


def test_text_is_real() -> None:
    """Python's own help: each step has other places of it, and then all come again."""
    whole = text.load_text()
    assert len(whole.ids) > 20_000
    assert 1000 < len(whole.vectors) == whole.ids.max() + 1
    features, labels = whole.step(1)
    assert features.shape == (whole.batch, whole.features)
    places = whole.order[whole.batch : 2 * whole.batch]
    np.testing.assert_array_equal(labels, whole.ids[places])
    before = [whole.vectors[whole.ids[places[0] - back]] for back in (1, 2)]
    np.testing.assert_array_equal(features[0], np.concatenate(before))
    assert sorted(whole.order) == list(range(text.BEFORE, len(whole.ids)))
    assert len(whole.step(10_000)[1]) == whole.batch
