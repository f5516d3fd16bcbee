"""What an orchestrator keeps in its store: the queue of runs, the admitted keys, its layout."""
