"""`explain` on the command line."""

import argparse
import sys
from typing import Any

from unified_loss import _libraries as libraries
from unified_loss._explain import explain
from unified_loss.exceptions import LossInputError

EPILOG = """\
shapes:
  "float32[640, 20]", or "[640, 20]" for the default dtype; ? is an unknown size.
  What an error message shows can be pasted: "torch float32[640, 20]". So can a whole message that
  tells the sizes, in place of both.

examples:
  python -m unified_loss explain "float32[640,20]" "int64[32]"
  python -m unified_loss explain "[8,5,16,16]" "[8,16,16]" --framework torch --ignore-index 255
  python -m unified_loss explain "bf16[4096,2048]" "[4096]" --weight "bf16[128256,2048]"
  python -m unified_loss explain "Expected input batch_size (32) to match target batch_size (20)."
"""


def add_command(commands: Any) -> None:
    """Add `explain` to the command line."""
    parser = commands.add_parser(
        "explain",
        help="tell how a call with these shapes is understood, or what is wrong with it",
        description="Tells how the loss of logits and labels of these shapes is understood, or "
        "what is wrong with it and how to mend it. Computes nothing. Exits with 0 if the call is "
        "valid, with 1 if it is not.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "logits",
        help="shape and dtype of the logits, or of hidden with --weight (default dtype: float32); "
        "or, alone, the message of another library",
    )
    parser.add_argument(
        "labels",
        nargs="?",
        default=...,
        help="those of the labels (default: int64; float32 if they have the shape of the logits)",
    )
    parser.add_argument(
        "--weight",
        metavar="SHAPE",
        help="the weight of the last layer: the call is one of linear_cross_entropy",
    )
    parser.add_argument("--bias", metavar="SHAPE", help="the bias of the last layer")
    parser.add_argument("--softcap", type=float, metavar="X", help="the cap of its logits")
    parser.add_argument("--axis", type=int, metavar="N", help="the class axis of the logits")
    for what in ("class", "sample"):
        parser.add_argument(f"--{what}-weight", metavar="SHAPE", help=f"the weight of each {what}")
    parser.add_argument(
        "--ignore-index",
        type=_integer_or_none,
        default=-100,
        metavar="N",
        help='the label that drops an example, or "none" (default: -100)',
    )
    for option in ("label-smoothing", "z-loss"):
        parser.add_argument(
            f"--{option}", type=float, default=0.0, metavar="X", help="(default: 0)"
        )
    parser.add_argument(
        "--normalizer", type=float, metavar="X", help="what the mean divides by instead"
    )
    parser.add_argument(
        "--reduction", default="mean", metavar="NAME", help="none, mean or sum (default: mean)"
    )
    parser.add_argument(
        "--framework",
        choices=libraries.known_names(),
        metavar="NAME",
        help="the library of the arrays: " + ", ".join(libraries.known_names()),
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 0 if the call is valid."""
    given = {name: value for name, value in vars(arguments).items() if name != "run"}
    if arguments.framework in tuple(libraries.installed_names()):
        libraries.load(arguments.framework)  # without its chat
    try:
        report = explain(**given)
    except LossInputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{report}\n")
    return 0 if report.valid else 1


def _integer_or_none(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)
