"""The section `runtime` of inference_manager.json: how replicas are run, as processes or as containers."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from controlplane.settings.section import Flag, Section, Whole

_IMAGES = {
    "vllm-cpu": "inference-manager-vllm-cpu:0.1.0",
    "vllm-cuda": "vllm/vllm-openai:v0.32.0",
    "diffusers-cpu": "inference-manager-diffusers-cpu:0.1.0",
    "diffusers-cuda": "inference-manager-diffusers-cuda:0.1.0",
    "simulated": "inference-manager:0.1.0",
}
_PYTHONS = {"vllm-cuda": "python3", "simulated": "/opt/inference-manager/bin/python"}

Text = Annotated[str, Field(min_length=1)]


class ShareSettings(Section):
    """A folder that engines' containers see under the same path as the service does."""

    path: Annotated[str, Field(pattern=r"^/")]
    """Absolute path, here and in the containers."""
    source: Text | None = None
    """Path on the Docker host, or the name of a volume. null: the same path."""
    read_only: Flag = True
    """false: engines may write there, as into a compile cache."""


class DockerSection(Section):
    """How engines are run as containers."""

    address: Annotated[str, Field(pattern=r"^(unix|tcp|http|https)://")] = "unix:///var/run/docker.sock"
    """The Docker engine, or the gate before it. Never taken from DOCKER_HOST or a context."""
    images: dict[str, Text] = Field(default_factory=dict)
    """Image of each engine environment, beside the built-in ones."""
    pythons: dict[str, Text] = Field(default_factory=dict)
    """The Python in each of those images. Default: `/opt/engine/bin/python`."""
    network: Text = "inference-manager-engines"
    """The private network of engines that listen on TCP. Engines that listen on a socket have no network at all."""
    on_network: Flag = False
    """true: the service is on that network itself, so nothing is published. false: ports on 127.0.0.1."""
    fetch_network: Text = "bridge"
    """The network over which models are fetched, by one-off containers that have no other."""
    sockets: ShareSettings | None = None
    """Folder for engines' unix sockets. null: `run/sockets` in the state folder, which must then be the host's own."""
    shares: tuple[ShareSettings, ...] = ()
    """More folders for engines, such as the models folder when it is not the host's own, and compile caches."""
    home: Annotated[str, Field(pattern=r"^/")] = "/tmp"  # noqa: S108  # the container's own
    """Home folder of engines. In a share that they may write to, what they compile outlives them."""
    user: Annotated[str, Field(pattern=r"^\d+:\d+$")] | None = None
    """User and group of engines, as `2000:2000`. null: the service's own."""
    memory_mib: Annotated[Whole, Field(ge=64)] | None = None
    """Main memory that each engine's container may take. null: no limit."""
    cpus: Annotated[float, Field(gt=0, le=4096)] | None = None
    """CPUs that each engine's container may use. null: no limit."""
    shm_mib: Annotated[Whole, Field(ge=1)] = 1024
    """Shared memory of each container; engines that use several GPUs need more."""

    @field_validator("shares")
    @classmethod
    def _paths_once(cls, shares: tuple[ShareSettings, ...]) -> tuple[ShareSettings, ...]:
        paths = [share.path for share in shares]
        if len(set(paths)) != len(paths):
            raise ValueError("names a path twice; name each path once")
        return shares

    def image(self, environment: str) -> str | None:
        """The image that stands for an engine environment."""
        return self.images.get(environment) or _IMAGES.get(environment)

    def python(self, environment: str) -> str:
        """The Python in that image."""
        return self.pythons.get(environment) or _PYTHONS.get(environment) or "/opt/engine/bin/python"

    @property
    def environments(self) -> tuple[str, ...]:
        """Every environment that has an image."""
        return tuple({**_IMAGES, **self.images})


class RuntimeSection(Section):
    """How replicas are run."""

    kind: Literal["process", "docker"] = "process"
    """`process`: on this host, in environments made on first use. `docker`: as containers."""
    docker: DockerSection = Field(default_factory=DockerSection)
    """How engines are run as containers."""
