"""Settings: their valid values, the layers they come from, and the files that ship with the package."""

from app.config.settings import SECTIONS, Loaded, Rules, Settings, load, loader_variables

__all__ = ["SECTIONS", "Loaded", "Rules", "Settings", "load", "loader_variables"]
