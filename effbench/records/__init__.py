"""Results: one file for each record, and every table that is computed from records."""
