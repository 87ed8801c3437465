"""Sessions: the event log, the pure agent loop and what performs it."""
