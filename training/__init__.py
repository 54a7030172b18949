"""From pictures of identities to an adapter: dataset, cached features, loop, checkpoint."""
