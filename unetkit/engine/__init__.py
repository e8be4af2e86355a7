"""Training: one loop for every network, from a recipe to a measured model."""
