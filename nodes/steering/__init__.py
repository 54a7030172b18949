"""From an adapter and pictures to a MODEL that is steered by them."""
