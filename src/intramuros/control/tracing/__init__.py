"""Traces for the organization's own collectors: destinations, spans, delivery (R378 to R381)."""
