"""``python -m convx`` prints the configuration."""

from . import show_config

print(show_config())
