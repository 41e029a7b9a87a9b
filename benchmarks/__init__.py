"""Benchmark plans, and the measurements of speed and memory."""
