"""A sweep: what to measure, and the loop that measures it."""
