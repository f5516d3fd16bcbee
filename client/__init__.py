"""What runs in a silo job, the training loop included."""
