"""What a running service says of itself: lines of the log and metrics."""
