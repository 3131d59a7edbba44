"""Ray: rounds answered by the workers of a cluster."""
