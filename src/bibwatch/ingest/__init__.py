"""Ingest: folders to ledger rows. Scans are authoritative; events only make files known sooner."""
