"""A bibwatch plugin: one runtime, one interpreter, one stage and one preset."""
