"""The sections about pictures: where results are kept, what callers may send or name."""

from pathlib import Path
from typing import Any

import pytest


def test_the_defaults_are_safe(config: Any) -> None:
    """Results under the state folder within limits; no folder is read; only public addresses are fetched."""
    config.manager(state_dir="state")
    settings = config.load()
    assert settings.artifacts_dir == config.folder / "state/artifacts"
    assert (settings.artifacts.max_mib, settings.artifacts.max_age_days) == (10 * 1024, 30)
    media = settings.media
    assert (media.folder, media.fetch_urls, media.allow_private_addresses) == (None, True, False)
    assert (media.max_image_mib, media.max_image_megapixels) == (20, 64)


def test_folders_are_relative_to_the_file(config: Any) -> None:
    """As every path is."""
    config.manager(artifacts={"dir": "results", "max_gib": 0.5}, media={"folder": "pictures"})
    settings = config.load()
    assert settings.artifacts_dir == config.folder / "results"
    assert settings.artifacts.max_mib == 512
    assert settings.media.folder == Path(config.folder) / "pictures"


@pytest.mark.parametrize(
    ("keys", "where", "remedy"),
    [
        ({"artifacts": {"max_gib": 0}}, "artifacts.max_gib", "must be more than 0"),
        ({"artifacts": {"max_age_days": 0}}, "artifacts.max_age_days", "must be at least 1"),
        ({"artifacts": {"folder": "x"}}, "artifacts.folder", "unknown key"),
        ({"media": {"folder": ""}}, "media.folder", "an empty path"),
        ({"media": {"fetch_url": True}}, "media.fetch_url", 'did you mean "fetch_urls"?'),
        ({"media": {"fetch_urls": "no"}}, "media.fetch_urls", "must be true or false"),
        ({"media": {"max_image_megapixels": 1000}}, "media.max_image_megapixels", "must be at most 178"),
        ({"media": {"fetch_timeout_seconds": 0}}, "media.fetch_timeout_seconds", "must be more than 0"),
    ],
)
def test_a_mistake_is_answered_with_its_remedy(config: Any, keys: Any, where: str, remedy: str) -> None:
    """One line with place and remedy."""
    config.manager(**keys)
    (mistake,) = config.mistakes()
    assert f": {where}: " in mistake
    assert remedy in mistake
