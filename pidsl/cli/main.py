"""What `pidsl` runs."""

from pidsl.__main__ import main as main
