"""How tasks read, cache and generate their data."""
