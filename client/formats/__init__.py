"""File formats in which a silo keeps its examples, read with their sizes checked before memory is
taken.
"""
