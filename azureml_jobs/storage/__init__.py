"""What outlives a job, for orchestrator and silos alike: named bytes with leases, in a folder or a
blob container.
"""
