"""`demo`: one training loop on real digits or text, once with each installed library."""

import argparse
import importlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

from unified_loss import _libraries as libraries

EXTRA = "pip install 'unified_loss[demo]'"
ALONE = """\
Only NumPy is installed. The same line serves other libraries: pip install 'unified_loss[jax]',
or torch, tensorflow, mlx or dask in its place, and run this again.
"""
STEPS, LINEAR_STEPS = 200, 8


def add_command(commands: Any) -> None:
    """Add `demo` to the command line."""
    parser = commands.add_parser(
        "demo",
        help="train on handwritten digits with every installed library and compare the losses",
        description="Trains a softmax regression on the 1,797 handwritten digits of scikit-learn, "
        "once with each installed library. The line that computes the loss is the same for all. "
        "With --linear, a small language model on Python's own help, its loss once with logits and "
        "once without, and the memory of both. Exits with 1 if a loss curve leaves NumPy's.",
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
        "--steps",
        type=_count,
        metavar="N",
        help=f"training steps (default: {STEPS}, with --linear {LINEAR_STEPS})",
    )
    parser.add_argument(
        "--linear", action="store_true", help="predict words, with logits and without"
    )
    parser.add_argument("--plot", type=_file, metavar="FILE", help="draw the curves, as a PNG")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, print the table, draw the plot."""
    needed = ["rich", *(["matplotlib"] if arguments.plot else [])]
    missing = _missing_extra(*needed, *([] if arguments.linear else ["sklearn"]))
    if missing:
        return _refuse(f"the demo needs {missing}: {EXTRA}")
    installed = tuple(libraries.installed_names())
    chosen = dict.fromkeys(("numpy", *(arguments.backend or installed)))
    absent = [name for name in chosen if name not in installed]
    if absent:
        return _refuse(f"not installed: {', '.join(absent)}")

    failures, agree = (_linear if arguments.linear else _digits)(chosen, arguments)
    if installed == ("numpy",):
        sys.stdout.write(ALONE)
    for name, error in failures.items():
        sys.stderr.write(f"{name} failed: {error}\n")
    return 0 if agree and not failures else 1


def _digits(names: Any, arguments: argparse.Namespace) -> tuple[dict[str, str], bool]:
    """Train a classifier of digits; which libraries failed, and whether the others agree."""
    from unified_loss._demo import report, training

    digits, steps = training.load_digits(), arguments.steps or STEPS
    train = partial(training.train, digits=digits, steps=steps)
    runs, failures = report.train_all(names, train, steps)
    report.print_table(runs)
    if arguments.plot:
        report.plot(runs, arguments.plot)
    return failures, all(report.agrees(run, runs[0]) for run in runs)


def _linear(names: Any, arguments: argparse.Namespace) -> tuple[dict[str, str], bool]:
    """The same for a language model, with logits and without."""
    from unified_loss._demo import report, text, training

    steps = arguments.steps or LINEAR_STEPS
    train = partial(training.train_heads, text=text.load_text(), steps=steps)
    runs, failures = report.train_all(names, train, 2 * steps)
    report.print_heads(runs)
    if arguments.plot:
        report.plot_heads(runs, arguments.plot)
    return failures, all(report.heads_agree(run, runs[0]) for run in runs)


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
