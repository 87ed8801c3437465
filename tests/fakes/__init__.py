"""Doubles that stand in for the other side."""
