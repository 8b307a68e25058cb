"""`python -m tests.fuzz --calls N --seed S [--backend NAME]...`: calls, faults, reproducers."""

import argparse
import sys
import time
import warnings
from collections import Counter

from tests.fuzz.session import Fault, Session, choose
from tests.fuzz.shrink import report, shrunk


def main() -> int:
    """Run the fuzzer; 1 if there are faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", action="append", default=[])
    parser.add_argument("--show", type=int, default=10, help="kinds of faults to make small")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    session = Session(given.seed, choose(given.backend))
    counts: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], Fault] = {}
    start = time.monotonic()
    for fault in session.run(given.calls):
        counts[fault.signature] += 1
        first.setdefault(fault.signature, fault)
    seconds = time.monotonic() - start
    faults: Counter[tuple[str, str]] = Counter()
    for signature, count in counts.items():
        faults[signature[0], signature[1]] += count
    write = sys.stdout.write
    for key, calls in sorted(session.calls.items()):
        write(f"{key[0]:18} {key[1]:18} {calls:7} calls {faults[key]:6} faults\n")
    for signature, count in counts.most_common():
        write(f"{count:6} x {' / '.join(signature)}   first at {first[signature].origin}\n")
    by_name = {runner.name: runner for runner in session.chosen}
    for signature, _ in counts.most_common(given.show):
        fault = shrunk(by_name[signature[0]], first[signature])
        write(f"\n{report(fault)}\n\n")
    write(
        f"{session.calls.total()} calls, {session.forms.total()} forms, {session.skipped} of them "
        f"ill-conditioned, {seconds:.0f} s, {sum(counts.values())} faults (seed {given.seed})\n"
    )
    return bool(counts)


if __name__ == "__main__":
    sys.exit(main())
