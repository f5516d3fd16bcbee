"""What a job is started with: its specification, its snapshot of the code, a silo owner's own file."""
