"""The embedded bus: a durable queue in a SQLite file, and push delivery from it."""
