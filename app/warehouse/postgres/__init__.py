"""Warehouse in a PostgreSQL database."""
