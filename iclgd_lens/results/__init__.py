"""What a comparison found: its numbers, their means, tables and figures, on NumPy alone."""
