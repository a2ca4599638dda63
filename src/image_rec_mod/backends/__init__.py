"""Extractors and image scaling."""
