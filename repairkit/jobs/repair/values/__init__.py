"""What filters are worth to a repair."""
