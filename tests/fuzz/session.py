"""The run of the fuzzer: draw a form, run many draws through it, and compare."""

import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tests.fuzz.alarms import false_alarms
from tests.fuzz.calls import Case, Form
from tests.fuzz.compare import Difference, differences
from tests.fuzz.draws import draw_case, draw_form, pick
from tests.fuzz.oracle import truth
from tests.fuzz.runners import Dask, Runner, Strict, Transform
from unified_loss import LossInputWarning

BETWEEN_CLEANINGS = 25  # forms whose compiled code is kept


class Fault(NamedTuple):
    """A wrong result, and all that is needed to see it again."""

    backend: str
    transform: str
    form: Form
    case: Case
    difference: Difference
    origin: tuple[int, int, int]  # seed, round and draw

    @property
    def signature(self) -> tuple[str, ...]:
        """What counts as the same fault in a summary."""
        return self.backend, self.transform, self.difference.name, self.difference.nature


def runners() -> dict[str, Runner]:
    """All libraries under test."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from tests.fuzz.jax_runner import Jax
    from tests.fuzz.mlx_runner import Mlx
    from tests.fuzz.tensorflow_runner import TensorFlow
    from tests.fuzz.torch_runner import Torch

    made = (Runner(), Strict(), Dask(), Torch(), Jax(), TensorFlow(), Mlx())
    return {runner.name: runner for runner in made}


class Session:
    """A run of a number of calls; the same seed draws the same ones."""

    def __init__(self, seed: int, chosen: list[Runner]) -> None:
        self.seed, self.chosen = seed, chosen
        self.calls: Counter[tuple[str, str]] = Counter()
        self.skipped = 0
        self.forms: Counter[str] = Counter()

    def run(self, calls: int, most_draws: int = 1000) -> Iterator[Fault]:
        """Go through `calls` calls, at most so many draws through a form, and find faults."""
        shares = {}
        for runner in self.chosen:
            whole = sum(of.share for of in runner.transforms.values())
            for transform, of in runner.transforms.items():
                shares[runner.name, transform] = runner.share * of.share / whole
        by_name = {runner.name: runner for runner in self.chosen}
        for number in itertools.count():
            done = self.calls.total()
            if done >= calls:
                return
            name, transform = min(shares, key=lambda key: (self.calls[key] + 1) / shares[key])
            draws = by_name[name].transforms[transform].draws
            yield from self.round(
                number, by_name[name], transform, min(draws, most_draws, calls - done)
            )

    def round(self, number: int, runner: Runner, transform: str, draws: int) -> Iterator[Fault]:
        """Some draws through one form."""
        how = runner.transforms[transform]
        rng = np.random.default_rng([self.seed, number])
        form = runner.fit(draw_form(rng, runner.ability), how)
        self.forms[runner.name] += 1
        with warnings.catch_warnings(), runner.around(form):
            warnings.simplefilter("ignore")
            run = None
            for draw in range(draws):
                case = draw_case(rng, form, unit=how.is_unit, along=how.is_along)
                found, run = examined(runner, transform, form, case, run)
                self.calls[runner.name, transform] += 1
                if found is None:
                    self.skipped += 1
                    continue
                for difference in found:
                    origin = self.seed, number, draw
                    yield Fault(runner.name, transform, form, case, difference, origin)
        if self.forms[runner.name] % BETWEEN_CLEANINGS == 0:
            runner.finish()


def examined(
    runner: Runner, transform: str, form: Form, case: Case, run: Any = None
) -> tuple[list[Difference] | None, Any]:
    """What is wrong with one case, None if no number is certain; and what ran it."""
    true = truth(case.call, case.upstream, case.direction)
    if true.is_ill:
        return None, run
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", LossInputWarning)
            run = run or runner.prepare(form, transform, case.call)
            results = run(case)
    except Exception as error:  # noqa: BLE001 (whatever a library raises is a fault)
        text = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
        return [Difference("call", text[:150], None, None)], run
    return differences(form, true, results) + false_alarms(case.call, told), run


def choose(names: list[str]) -> list[Runner]:
    """The libraries of these names, or all that are installed."""
    known = runners()
    if names:
        return [known[name] for name in names]
    return [runner for runner in known.values() if runner.is_installed()]


__all__ = ["Fault", "Session", "Transform", "choose", "examined", "pick", "runners"]
