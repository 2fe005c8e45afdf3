"""Answers from smaller questions: one token per block, the axes of a grid."""
