"""The embedded bus: a durable queue in a SQLite file, and what pushes from it."""
