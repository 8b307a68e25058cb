"""The promises, on every backend."""
