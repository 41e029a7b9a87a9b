"""What may be said: behaviour and its gate, tests against controls, the one rule of verdicts."""
