"""Probes: each is a function of live objects that returns samples or values, and knows no cell."""
