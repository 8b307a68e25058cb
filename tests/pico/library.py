"""Step 2: how the library is used."""

from typing import Any, ClassVar

import numpy as np

from unified_loss._libraries._dialect import functions
from unified_loss._libraries._library import HostArray, Library
from unified_loss._types import Array


class Pico(Library):
    """Pico."""

    dialect = functions("pico")
    aliases: ClassVar = {"pico": "pico"}

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """An array."""
        return self.xp.Array(np.array(values, dtype))

    def to_numpy(self, array: Array) -> HostArray:
        """What it is made of."""
        return np.asarray(array.data, np.float64)


LIBRARY = Pico
