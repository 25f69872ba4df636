"""The run directory: paths, files, locks, records, counts."""
