"""One library each, beside what holds for all."""
