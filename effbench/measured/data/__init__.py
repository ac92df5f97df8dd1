"""Data of tasks: readers, generators, the cache on disk, and baseline scores."""
