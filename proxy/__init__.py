"""The filter: decides, explains and carries every byte that leaves a sandbox."""
