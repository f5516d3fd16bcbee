"""Who watches a run: progress, metrics file, MLflow, model registry, summary."""
