"""Values, options, errors and names that all packages share. Standard library only."""
