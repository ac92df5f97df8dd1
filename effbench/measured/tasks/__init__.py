"""Tasks, one per file: data, a model around a mechanism, a loss and a score."""
