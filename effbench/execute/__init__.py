"""Where a cell is measured: an executor takes a Job and returns a Record, whatever happens to the cell."""
