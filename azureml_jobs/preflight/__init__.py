"""What would fail later in a launch, looked at now."""
