"""HTTP: one router per resource, one boundary for errors and credentials."""
