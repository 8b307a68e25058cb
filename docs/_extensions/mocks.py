"""What autodoc's stand-ins for frameworks lack, so that classes of theirs are documented."""

from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.autodoc._dynamic import _mock
from sphinx.util.inspect import signature, stringify_signature


def signature_of_init(
    _app: Sphinx, what: str, _name: str, documented: Any, *_: Any
) -> tuple[str, str] | None:
    """The signature of a class; that of a class derived from a stand-in would be the latter's."""
    if what != "class":
        return None
    found = signature(documented.__init__, bound_method=True)
    return stringify_signature(found, show_annotation=False, show_return_annotation=False), ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the signatures, and let annotations such as ``Tensor | None`` be evaluated."""
    app.connect("autodoc-process-signature", signature_of_init)
    _mock._MockObject.__or__ = lambda mock, _: mock  # noqa: SLF001 (there is no public way)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
