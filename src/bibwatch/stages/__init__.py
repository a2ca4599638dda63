"""Stages: use cases. They hold the prompt and judge the answers; they know nothing of files or SQL."""
