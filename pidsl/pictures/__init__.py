"""Pictures of patterns, and a page that holds them all."""
