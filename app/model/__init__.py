"""What travels between rooms: values, options, errors, names. Standard library only."""
