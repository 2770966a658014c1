"""From samples to a picture of eight bits."""
