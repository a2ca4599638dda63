"""Runtimes: pixels and a prompt in, predictions out. They know nothing of bibs, files or SQL."""
