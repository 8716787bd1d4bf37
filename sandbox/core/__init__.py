"""Environments, tasks, scheduling, the store: ordinary code that needs no root."""
