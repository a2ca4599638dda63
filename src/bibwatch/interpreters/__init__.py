"""Interpreters: predictions to typed values. They know nothing of models, files or SQL."""
