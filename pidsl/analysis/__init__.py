"""What a pattern costs and how far it sees, for every length at once: formulas with proofs."""
