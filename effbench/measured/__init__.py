"""What runs in the measured process: the only folder of effbench that imports torch."""
