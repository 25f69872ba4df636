"""One call from Python: a data set certified, a finished run read."""
