"""The web tools: what they may reach, and the ways there. Knows sessions only by name."""
