"""Sums over examples, and over batches of them."""
