"""What writes generated files; it is not shipped."""
