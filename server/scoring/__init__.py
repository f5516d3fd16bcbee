"""What a model is worth: central evaluation, scores by silo, baselines."""
