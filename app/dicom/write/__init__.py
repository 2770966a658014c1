"""Write data sets as DICOM files."""
