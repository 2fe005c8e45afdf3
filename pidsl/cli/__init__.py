"""The command line, `pidsl` and `python -m pidsl`."""
