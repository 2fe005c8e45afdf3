"""From a plan to a torch program."""
