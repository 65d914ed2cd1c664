"""The cache folder."""

from __future__ import annotations

from pathlib import Path


class NoCacheFolder(FileNotFoundError):
    """There is no home folder to keep a cache in."""


def cache_folder() -> Path:
    """The platform's cache folder for fastbn; not created here. Raises NoCacheFolder where there is no home."""
    import pooch

    try:
        return Path(pooch.os_cache("fastbn"))
    except RuntimeError as error:
        raise NoCacheFolder(f"fastbn: no folder for a cache: {error}") from None
