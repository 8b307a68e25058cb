"""The Python examples of README, docs and docstrings are tests."""

from doctest import ELLIPSIS
from importlib.util import find_spec

from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser


def missing(library):
    """Whether an example has to be skipped because its library is not installed."""
    return find_spec(library) is None


pages = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    setup=lambda namespace: namespace.update(missing=missing),
)
NEEDS = {"keras": "keras", "torch": "torch", "transformers": "transformers"}  # of an integration
docstrings = Sybil(
    parsers=[DocTestParser()],
    patterns=["unified_loss/**/*.py"],
    excludes=[
        f"unified_loss/integrations/{name}.py" for name, need in NEEDS.items() if missing(need)
    ],
    document_types={".py": PythonDocStringDocument},
)
pytest_collect_file = (pages + docstrings).pytest()
