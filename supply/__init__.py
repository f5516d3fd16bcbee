"""What of others' goes into an installation: the lock with its hashes, its audit, the images' digests."""
