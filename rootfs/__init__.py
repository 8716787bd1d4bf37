"""Images, layers, snapshots as data, git mirrors and diffs. Never mounts anything."""
