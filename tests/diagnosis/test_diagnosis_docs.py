"""`docs/errors.md` is what its generator writes."""

import runpy
from pathlib import Path

from unified_loss._diagnosis import CAUSES, LINEAR_CAUSES
from unified_loss._diagnosis._hints import HINT_CAUSES
from unified_loss._diagnosis._objects import OBJECT_CAUSES

DOCS = Path(__file__).parents[2] / "docs"


def test_page_is_current() -> None:
    """R25: every cause is there, with what the library says today."""
    page = runpy.run_path(str(DOCS / "generate_errors.py"))["page"]()
    assert page == (DOCS / "errors.md").read_text(encoding="utf-8")
    for tag in CAUSES | LINEAR_CAUSES | OBJECT_CAUSES | HINT_CAUSES:
        assert f"\n## {tag}\n" in page
