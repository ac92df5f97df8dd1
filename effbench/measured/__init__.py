"""The code of the measured process: the only folder of effbench that imports torch."""
