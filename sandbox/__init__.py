"""The daemon, the command line, and everything that makes and runs sandboxes."""
