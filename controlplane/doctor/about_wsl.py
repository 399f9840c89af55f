"""What is judged of a host that is a guest of Windows: the kind of guest, and the settings that surprise."""

from collections.abc import Iterator

from controlplane.doctor.facts import HostFacts
from controlplane.doctor.finding import Finding, good, note, problem, warning

_NEVER = "-1"
_RESTART = "then `wsl --shutdown`"


def _version(facts: HostFacts) -> Iterator[Finding]:
    if facts.wsl is None:
        return
    if facts.wsl.version == 1:
        yield problem(
            "wsl",
            "this is WSL 1, which has neither a GPU nor containers",
            "in Windows: `wsl --set-version DISTRIBUTION 2`",
        )
    else:
        yield good("wsl", "WSL 2")


def _own_engine(facts: HostFacts) -> Iterator[Finding]:
    """Docker inside WSL lives as long as the distribution does; Docker Desktop looks after itself."""
    wsl, docker = facts.wsl, facts.docker
    if wsl is None or docker is None or docker.desktop or facts.container:
        return
    if not wsl.systemd:
        yield warning(
            "systemd",
            "it does not run, so nothing starts the Docker engine with the distribution",
            f"write systemd=true under [boot] in /etc/wsl.conf, {_RESTART}",
        )
    if (wsl.settings or {}).get("automemoryreclaim") == "gradual":
        yield warning(
            "memory reclaim",
            "autoMemoryReclaim=gradual is set; with some versions of WSL the Docker engine inside does not start then",
            f"if it does not, write autoMemoryReclaim=dropcache in %UserProfile%\\.wslconfig, {_RESTART}",
        )


def _idle(facts: HostFacts) -> Iterator[Finding]:
    """Windows ends a distribution without a window, whatever its services do."""
    wsl = facts.wsl
    if wsl is None or (facts.docker is not None and facts.docker.desktop) or facts.container:
        return
    settings = wsl.settings or {}
    if settings.get("instanceidletimeout") == settings.get("vmidletimeout") == _NEVER:
        yield good("idle end", "Windows never ends the distribution")
    else:
        yield note(
            "idle end",
            "Windows ends a distribution soon after its last window is closed, with the service and every engine in it",
            "write instanceIdleTimeout=-1 under [general] and vmIdleTimeout=-1 under [wsl2] in"
            f" %UserProfile%\\.wslconfig, {_RESTART}; or keep a window open",
        )


WSL_LOOKS = (_version, _own_engine, _idle)
