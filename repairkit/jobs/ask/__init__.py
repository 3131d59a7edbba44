"""Keep a run's rows, and answer further questions from them without a forward pass."""
