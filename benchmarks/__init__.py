"""convx beside torch over the shapes of real networks: python -m benchmarks.run --help."""
