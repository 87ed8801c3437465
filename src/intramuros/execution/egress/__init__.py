"""Egress: the one way out of a sandbox, by name, outside of it.

Nouns: *names* say which DNS names a sandbox may look up; each admitted name gets a *fake address*
that exists nowhere; the *capture* accepts what the sandbox connects to such an address and hands it
to the sandbox's *gate*, which decides, records, dials and may rewrite. Nothing else leaves.
"""
