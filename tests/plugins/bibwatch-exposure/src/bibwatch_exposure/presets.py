"""Presets: a name, and the options of a model."""

PRESETS = {"light-meter": {"kind": "light_meter", "stages": ["exposure"], "licence": "Apache-2.0"}}
