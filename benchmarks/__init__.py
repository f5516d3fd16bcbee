"""What is claimed to be fast, with the programs that show it (docs/benchmarks.md).

A package of its own: one of this name comes with Opacus, and is found first where this is none.
"""
