"""Many coalitions in one run, as rows of the batch."""
