"""Removal curves: figures of a model as the filters of a ranking are frozen in turn."""
