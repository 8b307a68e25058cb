"""What is data on these pages: other libraries' calls beside ours, and what was measured."""

import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the package

from benchmarks.draws import MODES  # noqa: E402
from benchmarks.grid import Distribution, distributions  # noqa: E402
from benchmarks.limits import GRID_FROM, OVER, WORST  # noqa: E402
from benchmarks.results import Row, file_of, grid_folder, read  # noqa: E402

Cells = Sequence[str]


NOTHING = "Not measured yet."


class Moving(SphinxDirective):
    """``{moving} torch``: the set-up and the rows of ``moving/torch.toml``, which tests run."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes."""
        path = Path(self.env.srcdir, "moving", f"{self.arguments[0]}.toml")
        self.env.note_dependency(path)
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        head = ("for", table["library"], "unified_loss", "what differs, and why")
        rows = (
            (
                row["what"],
                call(row["theirs"], row.get("theirs_gives")),
                call(row["ours"], row.get("ours_gives")),
                row["note"],
            )
            for row in table["row"]
        )
        text = f"```python\n{table['setup'].strip()}\n```\n\n{markdown(head, rows)}"
        return with_class("moving", self.parse_text_to_nodes(text))


class Measured(SphinxDirective):
    """``{measured} torch time``: the rows of one kind in ``benchmarks/results/torch.csv``."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """The nodes."""
        framework, kind = self.arguments
        path = file_of(framework, "cpu", busy=False)
        self.env.note_dependency(path)
        rows = [row for row in read(path) if row["kind"] == kind and row["ours_ms"] is not None]
        if not rows:
            return self.parse_text_to_nodes(NOTHING)
        head = ("logits", "call", "against", "ms", "theirs", "ratio", "extra MB", "theirs")
        text = markdown(head, map(cells, rows))
        return with_class("measured", self.parse_text_to_nodes(f"{text}\n\n{origin(rows[0])}"))


class Drawn(SphinxDirective):
    """``{drawn}``: the distribution of the random cases of each library."""

    def run(self) -> list[nodes.Node]:
        """The nodes."""
        files = [grid_folder() / f"{name}.csv" for name in MODES]
        for path in files:
            self.env.note_dependency(str(path))
        found = distributions([row for path in files for row in read(path)])
        if not found:
            return self.parse_text_to_nodes(NOTHING)
        large = f"mean from {GRID_FROM:,} logits on"
        over = [f"over {bar}" for bar in (OVER, WORST)]
        head = ("library", "against", "cases", "mean", large, "worst tenth from", *over)
        text = markdown(head, map(distribution, found))
        origins = "\n\n".join(f"{each.framework}: {origin(each.rows[0])}" for each in found)
        return with_class("measured", self.parse_text_to_nodes(f"{text}\n\n{origins}"))


class Plot(SphinxDirective):
    """``{plot} ratio``: a plot that the benchmarks drew; the content says what it shows."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The nodes."""
        path = Path("_static", "bench", f"{self.arguments[0]}.svg")
        self.env.note_dependency(path)
        if not Path(self.env.srcdir, path).exists():
            return self.parse_text_to_nodes(NOTHING)
        text = " ".join(self.content)
        figure = f"```{{figure}} /{path.as_posix()}\n:figclass: plot\n:alt: {text}\n```"
        return self.parse_text_to_nodes(figure)


def distribution(found: Distribution) -> Cells:
    """That of one library."""
    names = dict.fromkeys(row["peer"] for row in found.rows)
    numbers = (found.mean, found.mean_of_large, found.worst_decile)
    shares = (f"{found.share_over(bar):.0%}" for bar in (OVER, WORST))
    count = f"{len(found.rows)} of seed {found.rows[0]['seed']}"
    return found.framework, ", ".join(names), count, *map(short, numbers), *shares


def markdown(head: Cells, rows: Iterable[Cells]) -> str:
    """A table in Markdown."""
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def with_class(name: str, found: list[nodes.Node]) -> list[nodes.Node]:
    """The same nodes, their tables known to the style sheet by a name."""
    for node in found:
        for table in node.findall(nodes.table):
            table["classes"].append(name)
    return found


def call(code: str, gives: str | None) -> str:
    """A call, and what it gives where that differs."""
    return f"`{code}`" if gives is None else f"`{code}` gives **{gives}**"


def cells(row: Row) -> Cells:
    """One measurement."""
    axis = "" if row["axis"] == "-1" else f", axis {row['axis']}"
    words = [row["mode"], row["direction"]]
    words += [word for word in (row["dtype"], row["labels"]) if word not in {"float32", "index"}]
    words += row["options"].replace("_", " ").split("+") if row["options"] else []
    numbers = ("ours_ms", "peer_ms", "ratio", "ours_mb", "peer_mb")
    return (
        f"{row['shape'].replace('x', ' × ')}{axis}",
        ", ".join(words),
        row["peer"],
        *("" if row[name] is None else short(row[name]) for name in numbers),
    )


def short(number: float) -> str:
    """Three digits, without an exponent."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def origin(row: dict[str, Any]) -> str:
    """Where and when a row was measured."""
    return f"*{row['device']}, {row['threads']} threads, {row['date']}: {row['versions']}.*"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("moving", Moving)
    app.add_directive("measured", Measured)
    app.add_directive("drawn", Drawn)
    app.add_directive("plot", Plot)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
