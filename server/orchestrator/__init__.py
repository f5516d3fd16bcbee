"""The long-lived server: one port, nodes by their keys, messages, and what is kept up to date
beside its runs.
"""
