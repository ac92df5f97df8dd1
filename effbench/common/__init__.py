"""What every folder may use: cells and records, the registry, values, files. It imports no torch."""
