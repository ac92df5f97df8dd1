"""Shared by all folders: cells and records, the registry, values, files. It imports no torch."""
