"""Images in [0, 1] with labels, and the four splits of a data set: training, validation, calibration, test."""
