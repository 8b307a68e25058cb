"""How Sphinx builds these pages: `make docs`."""

import sys
from pathlib import Path

from unified_loss import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "unified_loss"
author = "the unified_loss authors"
project_copyright = author
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_copybutton",
    "mathml",
    "mocks",
    "tables",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Docstrings name other objects in single backticks, as NumPy's do.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
# The integrations are classes of frameworks, none of which has to be installed for this.
autodoc_mock_imports = ["keras", "torch", "unified_loss._backends"]
# What was typed at a prompt is copied, without the prompt and what was printed.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"unified_loss {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sphinx = False
