"""Twins of `execution/ssh`."""
