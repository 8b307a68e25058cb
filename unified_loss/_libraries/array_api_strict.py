"""array-api-strict: the array API, and nothing beside it."""

from unified_loss._libraries._library import Library

LIBRARY = Library
