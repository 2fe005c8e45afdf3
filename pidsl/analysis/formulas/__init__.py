"""What answers are written in: formulas, assumptions, and how they are found, written and compared."""
