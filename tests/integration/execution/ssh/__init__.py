"""People in real sandboxes, by real clients."""
