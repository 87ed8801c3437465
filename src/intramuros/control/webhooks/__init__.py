"""Webhooks: where they go, and how they get there. Nobody below may import this room."""
