"""What layers of patterns with numbers connect: reach and depth for every length and number of layers."""
