"""What a run is: the typed schema, the YAML groups that fill it, and what may travel of it."""
