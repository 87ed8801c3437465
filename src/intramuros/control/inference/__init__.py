"""The Messages API for callers of their own: a relay to the provider, and tools through tunnels."""
