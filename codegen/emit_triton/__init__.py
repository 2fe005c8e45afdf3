"""From a plan to a Triton program."""
