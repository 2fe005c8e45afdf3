"""Which parts a relation has, what each way to compute them costs, and the pieces that are chosen."""
