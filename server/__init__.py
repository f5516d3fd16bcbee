"""What runs in the orchestrator job."""
