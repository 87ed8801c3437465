"""Reading the web for a model: URLs, domain lists, pages and search engines; no way out of its own.

Two machines read it, the server and the worker: whichever the operator says. Each brings its way
out and its record; what may be asked, and what an answer becomes, is the same here. Imports only
the kernel; knows sessions by name.
"""
