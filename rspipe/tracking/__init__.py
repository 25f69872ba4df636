"""The index in MLflow, which can be rebuilt from a run directory. The only wing that imports mlflow."""
