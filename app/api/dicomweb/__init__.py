"""DICOMweb (PS3.18): what the standard calls resources, from the warehouse, the artifacts and the objects."""
