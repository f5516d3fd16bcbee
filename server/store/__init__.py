"""What outlives a job: a store with leases, in a folder or a blob container, and the queue of runs in it."""
