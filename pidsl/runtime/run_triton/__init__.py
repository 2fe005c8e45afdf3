"""Generated Triton programs, written to a file, loaded and launched."""
