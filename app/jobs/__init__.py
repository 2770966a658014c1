"""Work outside the service, as commands start it."""
