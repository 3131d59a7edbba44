"""Means, intervals and what is decided by them."""
