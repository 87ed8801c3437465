"""Containers of the Open Container Initiative: images, bundles, and the programs that run them.

Must not import: anything above ``intramuros.execution.sandbox``.
"""
