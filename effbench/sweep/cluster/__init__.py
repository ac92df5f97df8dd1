"""Sweeps on a cluster: each Slurm job measures a bundle of cells into one results folder on a shared disk."""
