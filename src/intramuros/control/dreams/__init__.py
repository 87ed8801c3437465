"""Dreams: sessions and a memory store, consolidated by a model into a better memory store.

A dream is the client of a session of its own: it sends the parts to be read as messages, and
answers the memory tools that the model calls, each answer in the transaction of what it did. The
loop knows nothing of dreams. This room must not import the API, nor be imported by the session.
"""
