"""A data set as a file again."""
