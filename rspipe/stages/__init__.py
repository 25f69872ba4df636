"""The outside world of a study: Ray, MLflow and files."""
