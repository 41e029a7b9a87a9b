"""The training of deltas: one loop, rows of a batch with weights of their own, shared batches."""
