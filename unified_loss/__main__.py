"""The command line: `python -m unified_loss COMMAND`."""

import argparse
import sys
from collections.abc import Sequence

from unified_loss import _demo, _doctor
from unified_loss._explain import _command as _explain
from unified_loss._version import __version__

COMMANDS = (_demo, _doctor, _explain)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m unified_loss",
        description="One cross-entropy for NumPy, PyTorch, JAX, TensorFlow and the array-API "
        "libraries.",
        epilog="'python -m unified_loss COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"unified_loss {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(commands)
    parsed = parser.parse_args(arguments)
    if not hasattr(parsed, "run"):
        parser.print_help()
        return 0
    exit_code: int = parsed.run(parsed)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
