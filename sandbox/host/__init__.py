"""Touches the host as root: network, cgroups, ids, processes, sweep, doctor."""
