"""Sources of notifications for storages that send none themselves."""
