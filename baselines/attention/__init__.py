"""Attention mechanisms, one per file; each class has a dense reference of the same function."""
