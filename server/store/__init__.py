"""What outlives a job: a store with leases, in a folder or a container, and a queue of runs."""
