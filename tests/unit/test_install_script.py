"""An environment's installation written down: run by nothing but a shell, it makes what the recipe says."""

import os
import subprocess
from pathlib import Path

import pytest

from controlplane.runtime.install_script import write_script
from controlplane.runtime.recipes import Recipe, load_recipe, shipped_recipes
from tests.unit.tiny_wheel import make_wheel


def recipe(folder: Path, check: str) -> Recipe:
    """Of one package by version, one by lock, and one aside."""
    folder.mkdir()
    digests = {name: make_wheel(folder, name, {f"{name}.py": ""}) for name in ("first", "second", "aside")}
    (folder / "requirements.lock").write_text(f"second==1.0 --hash=sha256:{digests['second']}\n")
    (folder / "environment.toml").write_text(
        f'name = "tiny"\nsummary = "tiny"\npython = ">=3.11"\nfirst = ["first==1.0"]\nlock = "requirements.lock"\n'
        f'check = "{check}"\n'
        f'[[extras]]\nname = "more"\npackages = ["aside==1.0"]\ncheck = "import aside"\n'
    )
    return load_recipe(folder / "environment.toml")


def run(script: Path, wheels: Path) -> "subprocess.CompletedProcess[str]":
    """From another folder, with those wheels as all that pip finds."""
    alone = {
        "PATH": os.environ["PATH"],
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }
    return subprocess.run(["sh", script], check=False, capture_output=True, text=True, env=alone, cwd="/")


def test_the_script_makes_the_environment(tmp_path: Path) -> None:
    """Every step of the recipe is taken: first, lock, extras; the environment's Python imports them all."""
    made = write_script(recipe(tmp_path / "wheels", "import first, second"), tmp_path / "out", tmp_path / "engine")

    done = run(made, tmp_path / "wheels")

    assert done.returncode == 0, done.stderr
    code = f"import sys; sys.path.insert(0, '{tmp_path}/engine/extras/more'); import first, second, aside"
    subprocess.run([tmp_path / "engine" / "bin" / "python", "-I", "-c", code], check=True)


@pytest.mark.parametrize("check", [True, False])
def test_the_check_is_part_of_it_unless_left_out(tmp_path: Path, check: bool) -> None:
    """A script whose environment does not work fails, so no image comes of it; without the check it does not."""
    broken = recipe(tmp_path / "wheels", "import absent")
    made = write_script(broken, tmp_path / "out", tmp_path / "engine", check=check)

    done = run(made, tmp_path / "wheels")

    assert (done.returncode != 0) is check, done.stderr
    assert ("absent" in done.stderr) is check


def test_what_is_written_follows_from_the_recipe_alone(tmp_path: Path) -> None:
    """Each shipped one: the same bytes in whatever folder, so that a builder's cache holds until the recipe changes."""
    for name, shipped in shipped_recipes().items():
        one, other = tmp_path / name, tmp_path / "elsewhere" / name
        write_script(shipped, one, Path("/opt/engine"))
        write_script(shipped, other, Path("/opt/engine"))
        assert {path.name: path.read_bytes() for path in one.iterdir()} == {
            path.name: path.read_bytes() for path in other.iterdir()
        }
        assert str(tmp_path) not in (one / "install.sh").read_text()
