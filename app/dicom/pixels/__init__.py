"""From pixel data to the samples of one frame."""
