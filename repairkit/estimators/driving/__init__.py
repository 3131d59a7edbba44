"""Spend evaluations for a run: budget, time, checkpoints."""
