"""The derived cache: keys and values that a pattern can still ask for, and where each lies."""
