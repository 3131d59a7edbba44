"""Suites from folders, manifests and arrays."""
