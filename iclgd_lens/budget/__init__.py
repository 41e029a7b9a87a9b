"""How far a rule is trained: rate, epochs and loss, searched on left-out demonstrations."""
