"""What `import unified_loss` costs in a new interpreter, and what it loads."""

import subprocess
import sys
from datetime import UTC, datetime
from statistics import median
from time import perf_counter

from benchmarks.frameworks._base import cpu_name
from benchmarks.limits import IMPORT
from benchmarks.results import Row, judged

BARE = "pass"
IMPORTING = "import unified_loss"
LISTING = (
    "import sys; before = set(sys.modules); import unified_loss; "
    "print(*sorted({m.partition('.')[0] for m in sys.modules.keys() - before}))"
)


def row(rounds: int) -> Row:
    """The time of an interpreter that imports the library, against that of one that does not."""
    pairs = [(_seconds(IMPORTING), _seconds(BARE)) for _ in range(rounds + 1)]
    ours, bare = (median(column) * 1e3 for column in zip(*pairs[1:], strict=True))
    found: Row = {
        "case": "import unified_loss vs bare interpreter",
        "kind": "import",
        "framework": "import",
        "shape": "0",
        "peer": "bare interpreter",
        "ours_ms": ours,
        "peer_ms": bare,
        "ratio": ours / bare,
        "added_us": (ours - bare) * 1e3,
        "rounds": rounds,
        "note": f"loads {_output(LISTING).strip()}",
        "device": cpu_name(),
        "versions": f"python {sys.version.split()[0]}",
        "date": datetime.now(UTC).date().isoformat(),
    }
    return judged(found, IMPORT)


def _seconds(code: str) -> float:
    start = perf_counter()
    _output(code)
    return perf_counter() - start


def _output(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
