"""What leaves: texts, files and memories are searched for secrets before they are sent.

Imports the kernel, the protocol, and of this plane what lies below the worker's client.
"""
