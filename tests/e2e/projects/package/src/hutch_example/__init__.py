"""A package that is installed for editing."""

ANSWER = 42
