"""array-api-strict: the array API, and nothing beside it."""

from typing import ClassVar

from unified_loss._libraries._dialect import STANDARD
from unified_loss._libraries._library import Library


class ArrayApiStrict(Library):
    """array-api-strict, which people import as the standard calls it."""

    dialect = STANDARD
    aliases: ClassVar = {"xp": "array_api_strict"}


LIBRARY = ArrayApiStrict
