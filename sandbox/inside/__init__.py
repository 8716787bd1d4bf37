"""The spawner and what runs in the new namespaces: the standard library and prctl only."""
