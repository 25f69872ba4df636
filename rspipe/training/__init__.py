"""Training base classifiers: the methods (one file each), the training step, validation metrics."""
