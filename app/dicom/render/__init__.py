"""Render decoded frames as 8-bit pictures."""
