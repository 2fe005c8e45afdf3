"""What a term means, twice: a dense NumPy mask (the oracle) and an exact isl relation, sharing no code."""
