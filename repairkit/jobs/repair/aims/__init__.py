"""What `--fix` and `--forget` ask of a repair beyond an objective, and what became of it."""
