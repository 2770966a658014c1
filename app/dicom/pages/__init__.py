"""Objects without pixels as a page: PDFs, structured reports, waveforms."""
