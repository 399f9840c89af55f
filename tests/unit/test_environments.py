"""Engine environments, made for real by pip from wheels that the tests make; no network."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from controlplane.errors import ConfigError
from controlplane.runtime.environments import (
    EnvironmentBroken,
    EnvironmentInstallFailed,
    Environments,
    EnvironmentStatus,
    extras_folder,
)
from controlplane.runtime.file_lock import file_lock
from controlplane.runtime.progress import Progress, read_pip_line
from controlplane.runtime.recipes import find_interpreter, folder_name, load_recipe, shipped_recipes
from tests.unit.tiny_wheel import make_wheel


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip can find packages in."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return folder


def write_recipe(tmp_path: Path, text: str, lock: str | None = None) -> Path:
    """Write a recipe named tiny, and its lock."""
    folder = tmp_path / "recipe"
    folder.mkdir(exist_ok=True)
    if lock is not None:
        (folder / "requirements.lock").write_text(lock)
        text += '\nlock = "requirements.lock"'
    path = folder / "environment.toml"
    path.write_text(f'name = "tiny"\nsummary = "tiny"\npython = ">=3.11"\n{text}\n')
    return path


def environments(tmp_path: Path, recipe: Path) -> Environments:
    """The environments of one recipe."""
    return Environments(tmp_path / "root", {"tiny": load_recipe(recipe)})


def made_folders(tmp_path: Path) -> list[str]:
    """What stands under the root besides logs and locks."""
    return [entry.name for entry in (tmp_path / "root").iterdir() if entry.is_dir()]


class Blocker:
    """A recipe whose import check stops until it is let go; the first check only."""

    def __init__(self, tmp_path: Path) -> None:
        self.pipe = tmp_path / "pipe"
        self.pid_file = tmp_path / "pid"
        os.mkfifo(self.pipe)
        code = (
            f"import os, pathlib; pid = pathlib.Path({str(self.pid_file)!r}); "
            f"first = not pid.exists(); pid.write_text(str(os.getpid())); first and open({str(self.pipe)!r}).read()"
        )
        self.recipe = write_recipe(tmp_path, f'check = """{code}"""')

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[int]:
        """Within, the check stands and waits; yields its process id. Leaving lets it go."""
        descriptor = await asyncio.to_thread(os.open, self.pipe, os.O_WRONLY)
        try:
            yield int(self.pid_file.read_text())
        finally:
            os.close(descriptor)


BUILDER = """
import asyncio, pathlib, sys
from controlplane.runtime.environments import Environments
from controlplane.runtime.recipes import load_recipe
root, recipe = map(pathlib.Path, sys.argv[1:])
print(asyncio.run(Environments(root, {"tiny": load_recipe(recipe)}).ensure("tiny", lambda _: None)))
"""


def start_builder(tmp_path: Path, recipe: Path) -> subprocess.Popen[str]:
    """Another process that ensures the environment and prints its Python."""
    arguments: list[str | Path] = [sys.executable, "-c", BUILDER, tmp_path / "root", recipe]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_recipe_becomes_an_environment_once(tmp_path: Path, wheels: Path) -> None:
    """Claim: ensure installs `first` and the locked packages, removes what is listed, and reports; then it is kept."""
    digest = make_wheel(wheels, "locked-thing", {"locked_thing.py": "value = 7\n"})
    make_wheel(wheels, "first-thing", {"first_thing.py": ""})
    make_wheel(wheels, "unwanted", {"unwanted.py": ""})
    recipe = write_recipe(
        tmp_path,
        dedent("""
            first = ["first-thing==1.0", "unwanted==1.0"]
            remove = ["unwanted", "never-installed"]
            check = "import first_thing, locked_thing"
        """),
        f"locked-thing==1.0 --hash=sha256:{digest}\n",
    )
    made = environments(tmp_path, recipe)
    seen: list[Progress] = []
    assert made.status("tiny") is EnvironmentStatus.ABSENT

    python = await made.ensure("tiny", seen.append)

    assert made.status("tiny") is EnvironmentStatus.READY
    assert python == made.python("tiny")
    probe = "import importlib.util as u, locked_thing; print(locked_thing.value, u.find_spec('unwanted'))"
    assert subprocess.check_output([python, "-c", probe], text=True).split() == ["7", "None"]
    phases = list(dict.fromkeys(progress.phase for progress in seen))
    assert phases == ["creating", "fetching", "installing", "checking", "ready"]
    assert Progress("tiny", "fetching", "locked_thing-1.0-py3-none-any.whl", 1, 1) in seen
    seen.clear()
    assert await made.ensure("tiny", seen.append) == python
    assert seen == []


EXTRAS = """
first = ["shared==1.0"]
check = "import shared; assert shared.value == 1"

[[extras]]
name = "other"
packages = ["shared==2.0", "lonely==1.0"]
check = "import lonely, shared; assert shared.value == 2"
"""


async def test_extras_lie_aside(tmp_path: Path, wheels: Path) -> None:
    """Claim: extras come without their dependencies, only those see them who name their folder, and they go first."""
    for version in ("1.0", "2.0"):
        make_wheel(wheels, "shared", {"shared.py": f"value = {version[0]}\n"}, version)
    make_wheel(wheels, "lonely", {"lonely.py": ""}, needs=["not-there"])
    made = environments(tmp_path, write_recipe(tmp_path, EXTRAS))

    python = await made.ensure("tiny", lambda _: None)
    await made.verify("tiny")

    probe = [python, "-c", "import importlib.util as u, shared; print(shared.value, u.find_spec('lonely') is not None)"]
    beside = os.environ | {"PYTHONPATH": str(extras_folder(python, "other"))}
    assert subprocess.check_output(probe, text=True).split() == ["1", "False"]
    assert subprocess.check_output(probe, text=True, env=beside).split() == ["2", "True"]


async def test_extras_that_do_not_import_leave_nothing(tmp_path: Path, wheels: Path) -> None:
    """Claim: an environment is ready only when its extras pass their check too."""
    make_wheel(wheels, "shared", {"shared.py": "value = 1\n"})
    make_wheel(wheels, "shared", {"shared.py": "value = 2\n"}, "2.0")
    make_wheel(wheels, "lonely", {"lonely.py": "import not_there"})
    made = environments(tmp_path, write_recipe(tmp_path, EXTRAS))

    with pytest.raises(EnvironmentInstallFailed, match="No module named 'not_there'"):
        await made.ensure("tiny", lambda _: None)

    assert made_folders(tmp_path) == []


async def test_a_wrong_hash_leaves_nothing(tmp_path: Path, wheels: Path) -> None:
    """Claim: a package that is not the one that was locked stops the install, says so, and leaves only the log."""
    make_wheel(wheels, "locked-thing", {"locked_thing.py": ""})
    recipe = write_recipe(tmp_path, 'check = "pass"', f"locked-thing==1.0 --hash=sha256:{'0' * 64}\n")
    made = environments(tmp_path, recipe)

    with pytest.raises(EnvironmentInstallFailed, match="tiny: THESE PACKAGES DO NOT MATCH THE HASHES"):
        await made.ensure("tiny", lambda _: None)

    assert made_folders(tmp_path) == []
    assert made.status("tiny") is EnvironmentStatus.ABSENT


async def test_a_failed_import_check_leaves_nothing(tmp_path: Path, wheels: Path) -> None:
    """Claim: an environment whose check fails never counts as ready, and the reason is the check's own."""
    made = environments(tmp_path, write_recipe(tmp_path, 'check = "import not_there"'))

    with pytest.raises(EnvironmentInstallFailed, match=r"No module named 'not_there'.*whole output"):
        await made.ensure("tiny", lambda _: None)

    assert made_folders(tmp_path) == []


async def test_two_processes_build_once(tmp_path: Path, wheels: Path) -> None:
    """Claim: two processes that ensure the same environment at once build it once, and both get it."""
    builds = tmp_path / "builds"
    recipe = write_recipe(tmp_path, f'check = "open({str(builds)!r}, chr(97)).write(chr(120))"')
    both = [start_builder(tmp_path, recipe) for _ in range(2)]

    printed = [(await asyncio.to_thread(process.communicate))[0] for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1] != ""
    assert builds.read_text() == "x"


async def test_who_waits_hears_who_holds_the_lock(tmp_path: Path, wheels: Path) -> None:
    """Claim: while somebody else changes the environment, ensure waits, names the holder, and then goes on."""
    made = environments(tmp_path, write_recipe(tmp_path, 'check = "pass"'))
    seen: asyncio.Queue[Progress] = asyncio.Queue()
    (tmp_path / "root").mkdir()

    async with file_lock(tmp_path / "root" / "tiny.lock", lambda _: None):
        task = asyncio.create_task(made.ensure("tiny", seen.put_nowait))
        waiting = await seen.get()

    assert waiting == Progress("tiny", "waiting", f"process {os.getpid()} is changing this environment")
    assert (await task).is_file()


async def test_giving_up_the_wait_gives_back_the_lock(tmp_path: Path) -> None:
    """Claim: a cancelled waiter never ends up holding the lock."""
    path = tmp_path / "some.lock"
    waits = asyncio.Event()

    async def wait_for_it() -> None:
        async with file_lock(path, lambda _: waits.set()):
            raise AssertionError("the waiter was cancelled")

    async with file_lock(path, lambda _: None):
        task = asyncio.create_task(wait_for_it())
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async with asyncio.timeout(20), file_lock(path, lambda _: None):
        pass


async def test_a_killed_builder_is_followed_by_a_whole_build(tmp_path: Path, wheels: Path) -> None:
    """Claim: SIGKILL amid a build leaves nothing ready; the next ensure waits for the orphan, then builds."""
    blocker = Blocker(tmp_path)
    made = environments(tmp_path, blocker.recipe)
    builder = start_builder(tmp_path, blocker.recipe)
    seen: asyncio.Queue[Progress] = asyncio.Queue()

    async with blocker.reached():
        builder.kill()
        await asyncio.to_thread(builder.communicate)
        assert made.status("tiny") is EnvironmentStatus.ABSENT
        task = asyncio.create_task(made.ensure("tiny", seen.put_nowait))
        assert (await seen.get()).phase == "waiting"
    python = await task

    assert subprocess.check_output([python, "-c", "print(1)"], text=True) == "1\n"
    assert made.status("tiny") is EnvironmentStatus.READY


async def test_cancelling_ends_the_command_and_cleans_up(tmp_path: Path, wheels: Path) -> None:
    """Claim: a cancelled ensure leaves no process and no folder, and the lock is free at once."""
    blocker = Blocker(tmp_path)
    made = environments(tmp_path, blocker.recipe)
    task = asyncio.create_task(made.ensure("tiny", lambda _: None))

    async with blocker.reached() as pid:
        assert is_alive(pid)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not is_alive(pid)

    assert made_folders(tmp_path) == []
    waited: list[str] = []
    async with file_lock(tmp_path / "root" / "tiny.lock", waited.append):
        assert waited == []


async def test_a_damaged_environment_is_told_and_made_anew(tmp_path: Path, wheels: Path) -> None:
    """Claim: verify tells a failing import, status a missing Python, and both name the command; ensure mends it."""
    digest = make_wheel(wheels, "locked-thing", {"locked_thing.py": ""})
    recipe = write_recipe(tmp_path, 'check = "import locked_thing"', f"locked-thing==1.0 --hash=sha256:{digest}\n")
    made = environments(tmp_path, recipe)
    with pytest.raises(EnvironmentBroken, match="tiny is absent: run 'inferctl engines install tiny'"):
        made.python("tiny")
    python = await made.ensure("tiny", lambda _: None)
    await made.verify("tiny")

    next(python.parent.parent.rglob("locked_thing.py")).unlink()
    with pytest.raises(EnvironmentBroken, match=r"No module named 'locked_thing'.*inferctl engines remove tiny"):
        await made.verify("tiny")
    python.unlink()
    assert made.status("tiny") is EnvironmentStatus.BROKEN
    with pytest.raises(EnvironmentBroken, match="tiny is broken"):
        made.python("tiny")

    await made.ensure("tiny", lambda _: None)
    await made.verify("tiny")
    await made.remove("tiny")
    assert made_folders(tmp_path) == []
    assert made.status("tiny") is EnvironmentStatus.ABSENT


async def test_a_python_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Claim: where no interpreter fits, ensure says which is needed, and status is absent."""
    recipe = write_recipe(tmp_path, 'check = "pass"')
    recipe.write_text(recipe.read_text().replace(">=3.11", ">=3.99"))
    made = environments(tmp_path, recipe)

    assert made.status("tiny") is EnvironmentStatus.ABSENT
    with pytest.raises(EnvironmentInstallFailed, match=r"needs Python >=3\.99"):
        await made.ensure("tiny", lambda _: None)


async def test_a_root_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """Claim: a root that is no folder gives one clear error."""
    (tmp_path / "root").write_text("a file")
    made = environments(tmp_path, write_recipe(tmp_path, 'check = "pass"'))

    with pytest.raises(EnvironmentInstallFailed, match="cannot keep engine environments in"):
        await made.ensure("tiny", lambda _: None)


def test_unknown_names_are_told(tmp_path: Path) -> None:
    """Claim: a name without a recipe is an error that lists the names there are."""
    made = environments(tmp_path, write_recipe(tmp_path, 'check = "pass"'))

    with pytest.raises(EnvironmentBroken, match="no engine environment 'tniy'; there are: tiny"):
        made.python("tniy")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('check = "pass"\nchekc = "x"', "unknown key 'chekc'; known keys: name"),
        ("", "check: Field required"),
        ('check = "pass"\npip = "9"', "pip 9 is too old"),
        ('check = "pass"\nfirst = ["torch>=2"]', "first.0: String should match"),
        ('check = "pass"\nlock = "no.lock"', "cannot read"),
        ('check = ""\n[[extras]]\nname = "x"\npackages = ["a==1"]', "extras.0.check: Field required"),
        ('check = ""\n[[extras]]\nname = "x"\npackages = ["a>1"]\ncheck = ""', "extras.0.packages.0: String should"),
        ('check = ""\n' + 2 * '[[extras]]\nname = "x"\npackages = ["a==1"]\ncheck = ""\n', "two extras are named 'x'"),
        ("check = ", "not valid TOML"),
    ],
)
def test_wrong_recipes_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """Claim: every mistake in a recipe is told with file and key before anything is made."""
    path = write_recipe(tmp_path, text)

    with pytest.raises(ConfigError) as raised:
        load_recipe(path)

    assert str(tmp_path) in str(raised.value)
    assert said in str(raised.value)


def test_a_changed_lock_is_another_environment(tmp_path: Path) -> None:
    """Claim: the folder's name follows recipe and lock, not comments: no change lands in a folder in use."""
    interpreter = find_interpreter(">=3.11")
    assert interpreter is not None
    names = set()
    for lock in ("a==1 --hash=sha256:00\n", "a==2 --hash=sha256:00\n"):
        names.add(folder_name(load_recipe(write_recipe(tmp_path, 'check = "pass"', lock)), interpreter))
    names.add(folder_name(load_recipe(write_recipe(tmp_path, 'check = "1"', lock)), interpreter))
    names.add(folder_name(load_recipe(write_recipe(tmp_path, '# why\ncheck = "1"', lock)), interpreter))

    assert len(names) == 3


def test_shipped_recipes_are_valid_and_their_locks_complete() -> None:
    """Claim: the shipped locks pin every package by version and hash, name no host, and leave torch to the recipe."""
    recipes = shipped_recipes()
    assert {"vllm-cpu", "vllm-cuda", "diffusers-cpu", "diffusers-cuda"} <= set(recipes)
    for recipe in recipes.values():
        if recipe.lock is None:
            continue
        text = recipe.lock.read_text()
        entries = [entry for entry in text.replace("\\\n", " ").splitlines() if entry and not entry.startswith("#")]
        assert len(entries) == recipe.locked_packages > 50
        assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
        assert "://" not in text
        assert not any(entry.startswith(("torch", "triton")) for entry in entries)


@pytest.mark.parametrize(
    ("line", "following"),
    [
        ("Collecting torch==2.13.0", Progress("e", "fetching", "torch==2.13.0", 4, 9)),
        ("  Requirement already satisfied: numpy in /x", Progress("e", "fetching", "numpy", 4, 9)),
        ("Ignoring colorama: markers 'x' don't match your environment", Progress("e", "fetching", "vllm", 4, 9)),
        ("Progress 10485760 of 20971520", Progress("e", "fetching", "vllm: 10 of 20 MiB", 3, 9)),
        ("Installing collected packages: a, b, c", Progress("e", "installing", "3 packages", 0, 3)),
        ("Successfully installed a-1 b-2", Progress("e", "fetching", "", 9, 9)),
        ("Looking in links: /somewhere", Progress("e", "fetching", "vllm", 3, 9)),
    ],
)
def test_pip_lines_become_progress(line: str, following: Progress) -> None:
    """Claim: pip's lines tell the package, its place among all, and the phase; other lines change nothing."""
    assert read_pip_line(Progress("e", "fetching", "vllm", 3, 9), line) == following


def test_our_own_python_is_taken_where_it_fits() -> None:
    """Claim: the interpreter that runs us is taken where it fits, so that a plain install needs no second Python."""
    own = find_interpreter(f">={sys.version_info.major}.{sys.version_info.minor}")

    assert own is not None
    assert own.program == sys.executable
    assert find_interpreter("<3.5") is None
