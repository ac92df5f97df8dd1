"""The mechanisms that effbench compares: plug-ins, found through entry points like any other plug-in."""
