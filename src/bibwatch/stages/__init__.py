"""Stages implement use cases: they define the prompt and process the replies. They know nothing about files or SQL."""
