"""bibwatch: watches camera folders at a finish line and records bib numbers in SQL."""

__version__ = "0.1.0"
