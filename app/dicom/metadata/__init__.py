"""A data set as DICOM JSON, as the JSON of a row, and as columns."""
