"""From bytes to a data set: where each element lies, every length checked."""
