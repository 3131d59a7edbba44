"""Coalitions written into the weights, and only what a change can reach run again."""
