"""Configured resources: one declaration per kind, one service for all of them."""
