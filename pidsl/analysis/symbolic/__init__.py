"""Patterns with open symbols: formulas that hold for all their values."""
