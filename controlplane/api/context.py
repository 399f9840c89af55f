"""What the HTTP layer is given: the door, the world to show, and the orders it may pass on."""

from dataclasses import dataclass

from controlplane.api.auth import Keyring
from controlplane.loop.admission import Admission
from controlplane.loop.batches.batches import Batches
from controlplane.loop.commands import Commands
from controlplane.loop.jobs.jobs import Jobs
from controlplane.loop.outlook import Outlook
from controlplane.loop.telemetry import Telemetry
from controlplane.loop.world import World
from controlplane.media.file_folder import FileFolder
from controlplane.media.media import Media
from controlplane.store.store import Store


@dataclass(frozen=True, slots=True)
class Context:
    keyring: Keyring
    admission: Admission
    commands: Commands
    outlook: Outlook
    world: World
    store: Store
    media: Media
    jobs: Jobs
    files: FileFolder
    batches: Batches
    telemetry: Telemetry
    max_body_bytes: int
    cors_origins: tuple[str, ...]
    version: str
