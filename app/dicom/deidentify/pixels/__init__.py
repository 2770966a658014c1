"""Text burned into pixels: where it stands, and frames without it."""
