"""Ingest: folders to ledger rows. The scan is the truth, events only hasten it; knows nothing of models."""
