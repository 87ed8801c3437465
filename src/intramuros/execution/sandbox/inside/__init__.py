"""What runs inside a sandbox as its process 1.

These files are compiled on the host and shown read-only to the sandbox's own Python, which may be
as old as 3.9 and has nothing installed. So they import the standard library sparingly (each import
costs start-up time and memory in every sandbox) and nothing of ours outside this folder. The host
imports them only for the frame format and in tests.
"""
