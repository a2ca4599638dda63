"""The nouns that all rooms share: boxes, candidates, readings, file states. Imports nothing else of bibwatch."""
