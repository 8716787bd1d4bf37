"""Recipes of images, as data: one TOML file each. Must not contain code."""
