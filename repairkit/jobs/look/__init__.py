"""Look at a model or a result: inspect, instrument, interpret, report."""
