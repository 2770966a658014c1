"""De-identification of data sets (PS3.15 Annex E)."""
