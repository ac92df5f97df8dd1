"""What effbench compares: plug-ins found through entry points, as anybody's would be."""
