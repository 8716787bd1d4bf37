"""Recipes of language runtimes, as data: one TOML file each. Must not contain code."""
