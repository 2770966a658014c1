"""What several rooms are built on; it knows neither DICOM nor events nor rows."""
