"""Convert a data set to DICOM JSON, to the JSON of a row, and to columns."""
