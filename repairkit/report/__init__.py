"""Finished documents to pages that people read; pure: nothing is computed or looked up here."""
