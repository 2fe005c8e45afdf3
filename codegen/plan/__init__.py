"""What a plan says: its pieces, their loops, what they compute, and which of them share a kernel."""
