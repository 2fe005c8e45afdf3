"""Pairs, keys per query and live keys of patterns with numbers: counts for every length."""
