"""Draw objects without pixel data as a page: PDFs, structured reports, waveforms."""
