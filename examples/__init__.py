"""The demo and what it is made of: python -m examples.demo."""
