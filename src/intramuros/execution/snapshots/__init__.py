"""Sandboxes put away as files: sealed, stored, found again, by this worker or by another.

Knows nothing of sessions' items, calls or the control plane.
"""
