"""BigQuery as the warehouse."""
