"""The examples of a set as batches on the device that computes, one epoch after another.

`order` says which examples a batch has, `epochs` where they come from: `resident` on the device
itself, `gathered` from the host's memory, `loaded` through a DataLoader. What comes from
the host is copied one batch ahead (`ahead`).
"""

from client.batches.epochs import Batch, Batches, Collate, length

__all__ = ["Batch", "Batches", "Collate", "length"]
