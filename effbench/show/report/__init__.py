"""The HTML report: one file with all tables and charts of results folders, which opens without a network."""
