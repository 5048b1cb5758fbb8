"""Training with crossbar-aware pruning: data, networks, constraints, methods and export."""
