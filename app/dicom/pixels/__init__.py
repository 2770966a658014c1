"""Read and decode single frames of pixel data."""
