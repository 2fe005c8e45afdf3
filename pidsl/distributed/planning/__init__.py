"""What moves between ranks, exactly, and which way of moving it is cheapest."""
