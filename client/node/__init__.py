"""A silo's job: one resident process that connects to the orchestrator and runs the ClientApp."""
