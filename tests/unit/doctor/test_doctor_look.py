"""The doctor's looks: what a driver, a guest of Windows, a socket and this very host show becomes facts."""

import json
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from controlplane.doctor.facts import CardFacts
from controlplane.doctor.look_gpu import look_at_gpus
from controlplane.doctor.look_wsl import look_at_wsl
from tests.fakes.nvml import FakeNvml, Gpu

INFERCTL = Path(sys.executable).with_name("inferctl")
WSL2 = "5.15.153.1-microsoft-standard-WSL2"


class Driver(FakeNvml):
    """As far as the doctor asks more than the devices do; a card that does not know MIG."""

    def __init__(self, *gpus: Gpu, mode: int = 0) -> None:
        super().__init__(*gpus)
        self._mode = mode

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 13_010

    def nvmlDeviceGetComputeMode(self, _: object) -> int:  # noqa: N802
        return self._mode

    def nvmlDeviceGetMigMode(self, _: object) -> list[int]:  # noqa: N802
        raise self.NVMLError("not supported")


def write(folder: Path, **sections: Any) -> Path:
    """A configuration without models, with everything below `folder`."""
    (folder / "models.json").write_text('{"models": []}')
    config = folder / "service.json"
    config.write_text(json.dumps({"state_dir": "state", "cache_dir": "cache", **sections}))
    return config


def doctor(*options: str, config: Path) -> "subprocess.CompletedProcess[str]":
    """A process of its own: the SDK leaves a socket behind where nobody answers."""
    command = [INFERCTL, "doctor", "--config", config, *options]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_a_driver_is_asked_for_every_card() -> None:
    """Names as text whatever NVML gives, figures in MiB, and a question without an answer is left out."""
    seen = look_at_gpus(Driver(Gpu(b"A", total_mib=16_000, used_mib=500), Gpu("B"), mode=3))
    assert (seen.driver, seen.cuda, seen.problem) == ("580.65.06", "13.1", "")
    assert seen.cards[0] == CardFacts("A", 16_000, 500, shareable=False, split=False)
    assert [card.name for card in seen.cards] == ["A", "B"]


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetMemoryInfo"])
def test_a_driver_that_fails_is_a_fact(call: str) -> None:
    """Its own words are kept, and no card is claimed."""
    driver = Driver(Gpu())
    driver.failing.add(call)
    seen = look_at_gpus(driver)
    assert (seen.problem, seen.cards) == (call, ())


def test_a_driver_without_a_card_has_a_problem() -> None:
    """It answers, and nothing can be run on it."""
    assert "no card" in look_at_gpus(Driver()).problem


def test_a_server_is_no_guest_of_windows(tmp_path: Path) -> None:
    """Whatever lies about in its folders."""
    (tmp_path / "usr/lib/wsl/lib").mkdir(parents=True)
    assert look_at_wsl(tmp_path, "6.1.0-31-amd64") is None


@pytest.mark.parametrize(("kernel", "version"), [(WSL2, 2), ("4.4.0-19041-Microsoft", 1)])
def test_the_kind_of_guest_shows_in_the_kernel(tmp_path: Path, kernel: str, version: int) -> None:
    """Microsoft writes the first kind with a capital letter."""
    seen = look_at_wsl(tmp_path, kernel)
    assert seen is not None
    assert (seen.version, seen.settings, seen.systemd, seen.driver_library) == (version, None, False, False)


def test_a_guest_is_seen_with_its_settings_and_drivers(tmp_path: Path) -> None:
    """Settings of every section by lower-case name; a library that points to Windows' own is not a Linux driver."""
    home = tmp_path / "mnt/c/Users/me"
    home.mkdir(parents=True)
    (tmp_path / "mnt/c/Users/Public").mkdir()
    (home / ".wslconfig").write_bytes(
        b"\xef\xbb\xbf[wsl2]\r\nmemory=24GB\r\n[Experimental]\r\nautoMemoryReclaim=gradual\r\n"
    )
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    windows, linux = tmp_path / "usr/lib/wsl/lib", tmp_path / "usr/lib/x86_64-linux-gnu"
    for folder in (windows, linux):
        folder.mkdir(parents=True)
    (windows / "libnvidia-ml.so.1").touch()
    (linux / "libnvidia-ml.so.1").symlink_to(windows / "libnvidia-ml.so.1")
    (linux / "libcuda.so.1").touch()

    seen = look_at_wsl(tmp_path, WSL2)

    assert seen is not None
    assert seen.settings == {"memory": "24GB", "automemoryreclaim": "gradual"}
    assert (seen.systemd, seen.driver_library) == (True, True)
    assert seen.own_drivers == (str(linux / "libcuda.so.1"),)


@pytest.mark.parametrize("texts", [["[wsl2]\nmemory=8GB", "[wsl2]\nmemory=9GB"], ["memory without a section"]])
def test_settings_that_nobody_can_be_sure_of_are_unknown(tmp_path: Path, texts: list[str]) -> None:
    """Of two people's files nobody knows whose holds, and a broken one holds nothing."""
    for number, text in enumerate(texts):
        home = tmp_path / f"mnt/c/Users/u{number}"
        home.mkdir(parents=True)
        (home / ".wslconfig").write_text(text)
    seen = look_at_wsl(tmp_path, WSL2)
    assert seen is not None
    assert seen.settings is None


@pytest.mark.parametrize("mode", [0o660, 0o666])
def test_a_socket_is_seen_with_who_may_use_it(tmp_path: Path, mode: int) -> None:
    """Even when nobody answers behind it: its mode and its owner are told."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    path.chmod(mode)
    section = {"kind": "docker", "docker": {"address": f"unix://{path}"}}

    told = doctor("--json", config=write(tmp_path, runtime=section, devices={"source": "host"}))

    (found,) = [each for each in json.loads(told.stdout)["findings"] if each["subject"] == "docker"]
    assert f"{path} is {stat.filemode(path.stat().st_mode)} {path.owner()}:{path.group()}" in found["remedy"]


def test_this_very_host_is_looked_at_without_changing_it(tmp_path: Path) -> None:
    """`inferctl doctor` names every folder of the configuration, ends with 1 exactly when there is a problem."""
    config = write(tmp_path, devices={"source": "host"})
    ended = doctor("--json", config=config)
    told = json.loads(ended.stdout)
    problems = [each for each in told["findings"] if each["level"] == "problem"]
    assert {"state folder", "models folder", "environments folder"} <= {each["subject"] for each in told["findings"]}
    assert (ended.returncode, told["ok"]) == (1 if problems else 0, not problems)
    assert not (tmp_path / "state").exists()


def test_an_engine_out_of_reach_ends_with_a_problem(tmp_path: Path) -> None:
    """Text for people: the problem, its remedy, and the verdict."""
    section = {"kind": "docker", "docker": {"address": f"unix://{tmp_path / 'docker.sock'}"}}
    config = write(tmp_path, runtime=section, devices={"source": "host"})
    ended = doctor(config=config)
    assert ended.returncode == 1
    assert "problem docker: the Docker engine does not answer" in ended.stdout
    assert "something will not work" in ended.stdout
