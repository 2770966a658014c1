"""Pictures as text in a folder: `file:./encoded` gets `<name>.png.txt` for each, the PNG in base64."""

from __future__ import annotations

import base64

from app.forward import SETTING, Options
from app.model.errors import ConfigError, ForwardUnavailable, StorageUnavailable
from app.model.values import Picture
from app.storage import check_storage, open_storage

SUFFIX = ".png.txt"


class EncodedFiles:
    """A folder; files appear whole, under the path of their object."""

    def __init__(self, url: str, options: Options) -> None:
        try:
            self._folder = open_storage("forward", url)
        except ConfigError as error:
            raise ConfigError(f"{SETTING}: {error.text}") from None

    @staticmethod
    def check_settings(url: str, options: Options) -> None:
        """Raise ConfigError if the folder cannot be written."""
        try:
            check_storage("forward", url)
        except ConfigError as error:
            raise ConfigError(f"{SETTING}: {error.text}") from None

    def forward(self, picture: Picture) -> None:
        """Write the file; that of an earlier version of the object is replaced."""
        try:
            self._folder.write(picture.path + SUFFIX, base64.b64encode(picture.png), "text/plain")
        except StorageUnavailable as error:
            raise ForwardUnavailable(error.text) from error

    def close(self) -> None:
        """Close the folder."""
        self._folder.close()
