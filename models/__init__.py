"""The network, torch only: projection -> attention -> aggregation -> adapter -> checkpoint."""
