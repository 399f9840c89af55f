"""Looks at what Windows gives a guest of its own: driver library, settings, systemd. Judges nothing."""

import configparser
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from controlplane.doctor.facts import WslFacts

_WINDOWS_LIBRARIES = "usr/lib/wsl"
_LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64")
_DRIVER_LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")


def look_at_wsl(root: Path, kernel: str) -> WslFacts | None:
    """None where this is no guest of Windows. `root` is the root of the file system, `kernel` its release."""
    if "microsoft" not in kernel.lower():
        return None
    windows = root / _WINDOWS_LIBRARIES
    return WslFacts(
        version=1 if "Microsoft" in kernel else 2,
        settings=_settings(root),
        systemd=(root / "run/systemd/system").is_dir(),
        driver_library=(windows / "lib/libnvidia-ml.so.1").exists(),
        own_drivers=tuple(_own_drivers(root, windows)),
    )


def _own_drivers(root: Path, windows: Path) -> Iterator[str]:
    """Drivers' libraries where Linux packages put them, unless they only point to Windows'."""
    for folder in _LIBRARY_FOLDERS:
        for name in _DRIVER_LIBRARIES:
            library = root / folder / name
            if library.exists() and not library.resolve().is_relative_to(windows):
                yield str(library)


def _settings(root: Path) -> Mapping[str, str] | None:
    """Of the one .wslconfig that can be seen; of several, nobody here knows whose holds."""
    found = []
    for user in _folders(root / "mnt/c/Users"):
        with contextlib.suppress(OSError, UnicodeDecodeError, configparser.Error):
            parser = configparser.ConfigParser(strict=False, interpolation=None)
            parser.read_string((user / ".wslconfig").read_text(encoding="utf-8-sig"))
            found.append({name: value for section in parser.sections() for name, value in parser.items(section)})
    return found[0] if len(found) == 1 else None


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(parent.iterdir())
    except OSError:
        return []
