"""Tasks that lack only their data: one common kind of problem a file, to derive a task from."""
