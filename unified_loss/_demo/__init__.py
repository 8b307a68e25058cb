"""`demo`: one training loop on real digits, once with each installed library."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from unified_loss import _libraries as libraries

EXTRA = "pip install 'unified_loss[demo]'"


def add_command(commands: Any) -> None:
    """Add `demo` to the command line."""
    parser = commands.add_parser(
        "demo",
        help="train on handwritten digits with every installed library and compare the losses",
        description="Trains a softmax regression on the 1,797 handwritten digits of scikit-learn, "
        "once with each installed library. The line that computes the loss is the same for all. "
        "Exits with 1 if a loss curve leaves NumPy's.",
        epilog=f"Needs the extra: {EXTRA}",
    )
    parser.add_argument(
        "--backend",
        nargs="+",
        action="extend",
        choices=libraries.known_names(),
        metavar="NAME",
        help="train with these only, and with NumPy: " + ", ".join(libraries.known_names()),
    )
    parser.add_argument(
        "--steps", type=_count, default=200, metavar="N", help="training steps (default: 200)"
    )
    parser.add_argument("--plot", type=_file, metavar="FILE", help="draw the curves, as a PNG")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, print the table, draw the plot."""
    missing = _missing_extra("sklearn", "rich", *(["matplotlib"] if arguments.plot else []))
    if missing:
        return _refuse(f"the demo needs {missing}: {EXTRA}")
    installed = tuple(libraries.installed_names())
    chosen = dict.fromkeys(("numpy", *(arguments.backend or installed)))
    absent = [name for name in chosen if name not in installed]
    if absent:
        return _refuse(f"not installed: {', '.join(absent)}")

    from unified_loss._demo import report, training

    runs, failures = report.train_all(chosen, training.load_digits(), arguments.steps)
    report.print_table(runs)
    for name, error in failures.items():
        sys.stderr.write(f"{name} failed: {error}\n")
    if arguments.plot:
        report.plot(runs, arguments.plot)
    return 1 if failures or not all(report.agrees(run, runs[0]) for run in runs) else 0


def _missing_extra(*modules: str) -> str | None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            return {"sklearn": "scikit-learn"}.get(module, module)
    return None


def _refuse(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 1


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        reason = "must be at least 1"
        raise argparse.ArgumentTypeError(reason)
    return count


def _file(text: str) -> Path:
    file = Path(text)
    if not file.parent.is_dir():
        reason = f"no such folder: {file.parent}"
        raise argparse.ArgumentTypeError(reason)
    return file
