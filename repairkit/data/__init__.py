"""Suites from folders, manifests and arrays: read with `reader`, shared out in `parts`."""
