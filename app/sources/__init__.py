"""What puts notifications on the bus, where the storage does not do so itself."""
