"""The warehouse in a dataset of BigQuery."""
