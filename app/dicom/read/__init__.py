"""Parse bytes into a data set: locate every element and check every length."""
