"""An atlas of the filters that matter in a run."""
