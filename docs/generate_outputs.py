"""`python docs/generate_outputs.py` runs `examples/*.py`, and keeps what each prints beside it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"


def output_of(program: Path) -> str:
    """What a program prints in a process of its own, on the processor."""
    done = subprocess.run(  # noqa: S603 (our own programs)
        [sys.executable, program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        message = f"{program.name} failed:\n{done.stderr}"
        raise RuntimeError(message)
    return done.stdout


def written(program: Path) -> Path:
    """Where its output is kept."""
    return program.with_suffix(".txt")


if __name__ == "__main__":
    for program in sorted(EXAMPLES.glob("*.py")):
        written(program).write_text(output_of(program), encoding="utf-8")
        print(program.name)
