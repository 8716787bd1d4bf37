"""HTTP only: bytes to a frozen value, an error to a status. No state."""
