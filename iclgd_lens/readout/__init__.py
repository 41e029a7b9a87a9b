"""Reading a model: passes that keep what scores need at the readout token, and nothing else."""
