"""Probes: functions of live objects that return samples or values."""
