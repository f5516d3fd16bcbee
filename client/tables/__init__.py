"""Tables: their contract, their rows as numbers, and what all silos know of their columns."""
