"""The packaged sample: see train.py for how it was made."""
