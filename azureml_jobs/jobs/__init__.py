"""What a job starts with: specification, snapshot of the code, and a silo owner's own file."""
