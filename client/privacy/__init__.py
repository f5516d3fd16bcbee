"""Training that is private by the silo's own account: the gradients of sample-level privacy, what
each release costs, and the record in which a silo keeps what it has spent.
"""
