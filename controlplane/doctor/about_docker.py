"""What is judged of the Docker engine: whether it answers, who may reach it, and whether it can do what is asked."""

from collections.abc import Iterator

from controlplane.doctor.facts import DockerFacts, HostFacts
from controlplane.doctor.finding import Finding, good, note, problem, warning

_CLOSE = "`chmod 660` it, and give it to a group of those who may"
_GATE = "put the gate before it: `python -m controlplane.gate`, see docs/containers.md"


def _answers(facts: HostFacts) -> Iterator[Finding]:
    docker = facts.docker
    if docker is None:
        return
    if docker.problem:
        yield problem("docker", docker.problem, _reach(facts, docker))
    else:
        yield good("docker", f"engine {docker.version} ({docker.system}) at {docker.address}")


def _reach(facts: HostFacts, docker: DockerFacts) -> str:
    if docker.socket is None and docker.address.startswith("unix:"):
        desktop = "; Docker Desktop: enable this distribution under Settings, Resources, WSL integration"
        return f"start the engine, or correct runtime.docker.address{desktop if facts.wsl is not None else ''}"
    if docker.socket is not None:
        return (
            f"start the engine or the gate; {docker.socket.path} is {docker.socket.mode}"
            f" {docker.socket.owner}:{docker.socket.group}, so the service's user must be in that group"
        )
    return "start it, see that this user may use it, or correct runtime.docker.address"


def _holders(facts: HostFacts) -> Iterator[Finding]:
    docker = facts.docker
    if docker is None or docker.problem:
        return
    open_to_all = docker.socket is not None and docker.socket.open_to_all
    if open_to_all and not docker.guarded:
        yield problem("docker socket", f"{_held(docker)}: every user of this host is root through it", _CLOSE)
    elif open_to_all and not facts.container:  # in a container only those see it who were given its folder
        yield warning(
            "docker socket", f"{_held(docker)}: every user may start and stop engines through the gate", _CLOSE
        )
    elif docker.guarded:
        yield good("docker socket", "behind the gate: the service reaches its own containers and nothing else")
    elif docker.address.startswith(("tcp://", "http://")):
        yield warning(
            "docker socket",
            f"{docker.address} is the engine itself, without a password: who reaches it is root there",
            _GATE,
        )
    else:
        yield note("docker socket", f"the service holds {_held(docker)}, and is root on this host through it", _GATE)


def _held(docker: DockerFacts) -> str:
    if docker.socket is None:
        return docker.address
    return f"{docker.socket.path} ({docker.socket.mode} {docker.socket.owner}:{docker.socket.group})"


def _toolkit(facts: HostFacts) -> Iterator[Finding]:
    docker = facts.docker
    if docker is None or docker.problem or not (facts.gpu.cards or facts.wants_gpu):
        return
    if docker.desktop:
        yield good("nvidia toolkit", "Docker Desktop has its own")
    elif "nvidia" in docker.runtimes or docker.cdi_devices:
        yield good("nvidia toolkit", "CDI devices" if docker.cdi_devices else "the engine has the nvidia runtime")
    else:
        yield problem(
            "nvidia toolkit",
            f"the engine has no nvidia runtime and no CDI devices; it has {', '.join(docker.runtimes)}",
            "install nvidia-container-toolkit, run `nvidia-ctk runtime configure --runtime=docker`, restart the engine",
        )


def _abilities(facts: HostFacts) -> Iterator[Finding]:
    docker = facts.docker
    if docker is None or docker.problem:
        return
    if docker.missing_limits:
        yield warning(
            "docker limits",
            f"the kernel does not let the engine limit {', '.join(docker.missing_limits)}",
            "mount the control groups (a newer WSL kernel does); until then runtime.docker's limits do not hold",
        )
    if docker.mapped:
        yield warning(
            "docker users",
            f"the engine gives containers other users ({docker.mapped}), so engines' sockets and models may be closed"
            " to them",
            "set runtime.docker.user, and give that user the folder for sockets; or use an engine without it",
        )


def _images(facts: HostFacts) -> Iterator[Finding]:
    docker = facts.docker
    if docker is None or docker.problem:
        return
    for image in docker.missing_images:
        built = "build it: docs/containers.md" if image.startswith("inference-manager") else "`docker pull` it now"
        yield warning("image", f"{image} is not here", f"{built}; else it is pulled at the first start")


DOCKER_LOOKS = (_answers, _holders, _toolkit, _abilities, _images)
