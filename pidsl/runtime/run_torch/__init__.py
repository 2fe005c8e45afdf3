"""What generated torch programs call."""
