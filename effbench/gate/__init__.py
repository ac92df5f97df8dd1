"""The gate: two revisions timed in lock-step and held to exact figures; a verdict for every cell."""
