"""Attention mechanisms, one a file; each stands beside the dense reference of the same function."""
