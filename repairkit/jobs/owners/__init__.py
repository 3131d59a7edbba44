"""Data that must stay with its owners: means and values are shared, images are not."""
