"""Caches and runs that are damaged, killed and shared by workers that die: `make torture`."""
