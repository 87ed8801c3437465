"""MCP servers inside the perimeter, wrapped as tools that agents declare: what is configured, how
each is reached, and what becomes of a call. It imports nothing above the sandbox.
"""
