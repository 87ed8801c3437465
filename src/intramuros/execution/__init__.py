"""The execution plane: worker, sandboxes, tools. Never imports control or tunnel."""
