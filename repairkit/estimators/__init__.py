"""Who helps and who harms: the driver and the algorithms that it drives."""
