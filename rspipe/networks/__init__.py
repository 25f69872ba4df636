"""From names to networks: architectures, normalization, published checkpoints, the form that is deployed."""
