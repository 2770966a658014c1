"""DICOMweb (PS3.18): its resources, served from the warehouse, the artifacts and the objects."""
