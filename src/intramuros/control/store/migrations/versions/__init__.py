"""One file a migration: ``mNNNN_{pre,post}_<what>.py``; pre runs before the new program starts."""
