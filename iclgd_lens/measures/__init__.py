"""The formulas: how alike changes are, and each score's way to them."""
