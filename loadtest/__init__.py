"""What the service bears: many users at once, by Locust. `make load` runs it."""
