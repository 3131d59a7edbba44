"""What to freeze: scores in, patches out; pure."""
