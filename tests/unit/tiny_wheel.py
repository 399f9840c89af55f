"""Makes a wheel out of a few files, as an index would carry it."""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def make_wheel(
    folder: Path, name: str, files: Mapping[str, str], version: str = "1.0", needs: Sequence[str] = ()
) -> str:
    """Write `name`-`version` with `files` into `folder`; returns its sha256. `needs` names its dependencies."""
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    stem = f"{name.replace('-', '_')}-{version}"
    content = {
        **files,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{stem}.dist-info/RECORD"
    content[record] = "".join(f"{path},,\n" for path in [*content, record])
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in content.items():
            archive.writestr(zipfile.ZipInfo(path), text)  # without the time, so that the same files are the same wheel
    return hashlib.sha256(wheel.read_bytes()).hexdigest()
