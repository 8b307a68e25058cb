"""One module per backend; `unified_loss._dispatch` loads each when its first array arrives."""
