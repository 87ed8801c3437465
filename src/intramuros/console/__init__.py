"""Static pages that talk only to the public API and to our own extensions under /x/."""
