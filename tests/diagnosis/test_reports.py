"""Public reports of mismatched logits and labels: each works, or is explained."""

import sys
from collections import Counter

import pytest

from tests.helpers.backends import BACKENDS
from tests.helpers.reports import LIBRARIES, REPORTS, WORKS, arrays_of, outcome_of, score_of, table
from unified_loss import SingleClassWarning

# What another cause explains as well, by the same sizes and values, with a fix to the same effect.
ALIKE = {
    "c018": "a mask with a channel axis",
    "c065": "class ids of a floating type",
    "c067": "class ids of a floating type",
    "c076": "a shift by one step",
    "n039": "a shift by one step, of rows that were flattened",
    "n043": "class ids with a trailing axis",
}


@pytest.mark.parametrize("name", REPORTS)
def test_report_works_or_is_explained(name: str) -> None:
    """R17, R25: a mistake has its cause among the readings, and a fix that the report confirms."""
    report = REPORTS[name]
    backend = BACKENDS[LIBRARIES.get(report["framework"], report["framework"])]
    if not backend.is_installed():
        pytest.skip(f"{backend.name} is not installed")
    found = outcome_of(report, backend, check="auto")
    assert (found.verdict == "worked") is (name in WORKS), found.text
    if found.verdict == "explained":
        assert report["cause"] in found.tags, found.text
        assert any(word.lower() in found.text.lower() for word in report["fix_keywords"]), (
            found.text
        )
        assert len(found.text.splitlines()) <= 12


def test_score(capsys: pytest.CaptureFixture[str]) -> None:
    """R25: but for look-alikes the cause is the first reading, and nothing misleads; on NumPy."""
    backend, found = BACKENDS["numpy"], {}
    for name, report in REPORTS.items():
        outcome = outcome_of(report, backend, check="auto")
        found[name] = score_of(report, outcome, arrays_of(report, backend)), outcome
    with capsys.disabled():
        sys.stdout.write("\n" + table(found, "framework") + "\n")
    score = Counter(score for score, _ in found.values())
    assert score["missed"] == score["misleading"] == 0
    among = {name for name, (score, _) in found.items() if score == "among"}
    assert among <= set(ALIKE)
    assert score["works"] + score["first"] >= 0.85 * len(REPORTS)


def test_single_output_unit_names_its_cause() -> None:
    """R9: the warning has the tag too."""
    assert SingleClassWarning.cause == "single_output_unit_with_categorical_loss"
