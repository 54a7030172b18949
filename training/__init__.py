"""From an index of identities to an adapter: cached features, rows, loop, checkpoint."""
