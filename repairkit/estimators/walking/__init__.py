"""Estimators that let players leave one by one."""
