"""One stage, one file: Ray Train, Tune and Data at work between the run directory and the core."""
