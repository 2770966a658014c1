"""dicomlake: DICOM objects in a bucket become JSON documents, PNG previews and rows to query."""

__version__ = "0.1.0"
