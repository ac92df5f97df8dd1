"""The gate: two revisions compared by interleaved times and by exact figures."""
