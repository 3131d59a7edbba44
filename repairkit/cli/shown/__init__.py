"""What is printed: tables, stages and progress."""
