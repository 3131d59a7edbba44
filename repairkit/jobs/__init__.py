"""Whole jobs: score, patch, verify, instrument, inspect."""
