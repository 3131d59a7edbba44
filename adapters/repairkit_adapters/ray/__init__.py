"""Play rounds on the workers of a Ray cluster."""
