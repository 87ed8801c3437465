"""Sandboxes: where the agent's hands work, and nothing but what was given to them is reachable.

Nouns: a *provider* creates *sandboxes* from a *spec*; a *supervisor* is process 1 inside a sandbox
and serves calls over a *channel*; a *finding* says what the host can or cannot do. Imports
``kernel`` only; nothing here knows the control plane, the wire contract or a credential.
"""
