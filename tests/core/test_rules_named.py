"""No rule of the contract without a test."""

import ast
import re
from pathlib import Path


def named_rules(docstring: str) -> set[int]:
    """The rules that a docstring names, ranges like "R10 to R16" included."""
    rules = {int(number) for number in re.findall(r"\bR(\d+)\b", docstring)}
    for first, last in re.findall(r"\bR(\d+) to R(\d+)\b", docstring):
        rules.update(range(int(first), int(last) + 1))
    return rules


def test_every_rule_is_named() -> None:
    """R1 to R32, R34 to R36: this test is a bookkeeper; another one must name each of them."""
    named: set[int] = set()
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        if path == Path(__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                named |= named_rules(ast.get_docstring(node) or "")
    rules = {*range(1, 33), *range(34, 37)}
    assert named >= rules, f"no test names {rules - named}"
