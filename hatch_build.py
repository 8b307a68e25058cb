"""README as a package index shows it: without the files beside it, and so without links to them."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A link to a file of the repository, whose text says where it is.
RELATIVE = re.compile(r"\[([^\]]+)\]\((?!https?:|#)[^)\s]+\)")


class Readme(MetadataHookInterface):
    """Fill in the field ``readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Keep the text of each relative link."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": RELATIVE.sub(r"\1", text),
        }
