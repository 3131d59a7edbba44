"""The look at the test part, and the repair beside simpler ones."""
