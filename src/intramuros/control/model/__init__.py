"""Model adapters: one protocol, one file per provider."""
