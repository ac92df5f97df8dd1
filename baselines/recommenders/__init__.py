"""News recommenders, one per file: plug-ins, found through entry points like any other plug-in."""
