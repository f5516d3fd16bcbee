"""The one layer between Meadow and file systems: all that is written, locked or given a mode goes
through it.

    faults.py   what a failed system call means to a person: one error, its code, its true cause
    whole.py    files and lines that are whole or not there: replaced, or made where absent
    locks.py    one holder at a time, among threads and processes
    plain.py    reading what somebody else may have put there
    kinds.py    what the file system of a folder can do

A file system that lacks something (hard links, locks, modes, syncing a folder) is worked around
where that is safe, and named where it is not (MDW-528). `tests/test_file_layer.py` holds the rest of
the tree to this layer.
"""
