"""One run's folder: configuration, checkpoints, result, ledger, and what reads them back."""
