"""Interpreters convert predictions to typed values. They know nothing about models, files or SQL."""
