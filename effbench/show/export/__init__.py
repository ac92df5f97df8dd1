"""Results in the forms of other programs: one file per target, listed in targets.py."""
