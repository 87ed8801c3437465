"""Benchmarks: each is one command, prints a table and writes a dated JSON file."""
