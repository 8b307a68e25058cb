"""One case again, as a reproducer of the fuzzer asks for it."""

import sys
import warnings

from tests.fuzz.calls import Case, Form
from tests.fuzz.compare import Difference
from tests.fuzz.session import examined, runners


def replay(backend: str, transform: str, form: Form, case: Case) -> list[Difference]:
    """Run a case, and write what is wrong with it."""
    runner = runners()[backend]
    with warnings.catch_warnings(), runner.around(form):
        warnings.simplefilter("ignore")
        found, _ = examined(runner, transform, form, case)
    for name, nature, got, true in found or ():
        sys.stdout.write(f"{name}: {nature}\n  got  {got}\n  true {true}\n")
    if not found:
        sys.stdout.write("nothing is wrong\n")
    return found or []
