"""Objects as files below a folder."""
