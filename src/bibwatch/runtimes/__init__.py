"""Runtimes turn images and a prompt into predictions. They know nothing about bibs, files or SQL."""
