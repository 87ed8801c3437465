"""Web calls that the server hands over: made here, outside of every sandbox, under its rules.

They go out by the same rules and into the same record as what sandboxes ask for. Must not import
sandboxes: no file, process or secret of a session is near.
"""
