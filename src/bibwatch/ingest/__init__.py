"""Ingest: folders to ledger rows. The scan is the truth, events only hasten it."""
