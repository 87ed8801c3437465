"""The control plane: API, agent loop, store, identity. Never imports execution or tunnel."""
