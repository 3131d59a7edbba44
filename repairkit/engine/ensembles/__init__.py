"""Coalitions of trees, answered from the leaves that rows reach."""
