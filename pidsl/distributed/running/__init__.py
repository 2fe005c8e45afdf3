"""Processes that hold the tokens of a sequence together: what they agree on, send each other, and compute."""
