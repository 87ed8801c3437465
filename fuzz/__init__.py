"""Long-running fuzzers; the short ones are in the tests."""
