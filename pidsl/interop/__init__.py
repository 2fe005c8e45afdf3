"""What other libraries take, made from a pattern and a batch."""
