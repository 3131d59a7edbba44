"""What images that did not choose a cure say of it."""
