"""Estimators of what each filter is worth, and the driver that plays their rounds."""
