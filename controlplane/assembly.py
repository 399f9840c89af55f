"""The composition: which part gets which, in one place. Starts nothing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from random import random
from typing import NamedTuple

import pynvml

from adapters.base import EngineAdapter
from adapters.registry import make_adapters
from controlplane.api.app import Asgi, application
from controlplane.api.auth import Keyring
from controlplane.api.calls import Readers
from controlplane.api.context import Context
from controlplane.api.openai.batch_lines import line_ask
from controlplane.core.batching import BatchRules, Mode, RowMemory, rules_for
from controlplane.core.estimates import Estimate
from controlplane.core.lifecycle import Backoff
from controlplane.core.webhook import decoded_secret
from controlplane.loop.actuator import Actuator
from controlplane.loop.admission import Admission, DoorRules
from controlplane.loop.batches.batches import Batches, BatchParts
from controlplane.loop.batches.lines import Taker
from controlplane.loop.callbacks.lanes import LaneRules, Lanes
from controlplane.loop.callbacks.names import NameLookups
from controlplane.loop.callbacks.post import Poster, PostRules
from controlplane.loop.callbacks.secrets import Secrets, own_secret
from controlplane.loop.callbacks.sender import CallbackSender, SenderRules
from controlplane.loop.commands import Commands
from controlplane.loop.dispatcher import Dispatcher
from controlplane.loop.exchange import Surroundings
from controlplane.loop.jobs.jobs import Jobs, JobSurroundings
from controlplane.loop.launches import LaunchBook, Scalar
from controlplane.loop.loop import Inbox, Loop, LoopRules, Parts
from controlplane.loop.observer import Observer, ObserverRules
from controlplane.loop.outlook import Outlook
from controlplane.loop.proofs import Proofs
from controlplane.loop.recovery import Recovery
from controlplane.loop.rows import RowKeeper
from controlplane.loop.telemetry import Telemetry
from controlplane.loop.world import DEFAULT_STOP_GRACE_SECONDS, ModelEntry, World
from controlplane.media.artifacts import ArtifactLimits, Artifacts
from controlplane.media.fetching import FetchRules, ImageFetcher
from controlplane.media.file_folder import FileFolder
from controlplane.media.folder import MediaFolder
from controlplane.media.intake import Intake
from controlplane.media.media import Media
from controlplane.ports import Clock, ReplicaExit, Runtime
from controlplane.runtime.choosing import make_model_files, make_runtime
from controlplane.runtime.devices import detect
from controlplane.runtime.environments import Environments
from controlplane.runtime.interpreters import OWN_SUFFIX, in_words
from controlplane.runtime.model_files import ModelFiles
from controlplane.runtime.recipes import shipped_recipes
from controlplane.settings import ModelSettings, Settings
from controlplane.settings.manager_file import DiffusersSettings, VllmSettings
from controlplane.store.store import Store
from engines.pictures.intake import Limits

WAIT_TICK_SECONDS = 1.0
_NAMES_AT_ONCE = 256
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Service:
    """Everything assembled, ready to be run."""

    app: Asgi
    world: World
    store: Store
    media: Media
    runtime: Runtime
    model_files: ModelFiles
    inbox: Inbox
    loop: Loop
    observer: Observer
    actuator: Actuator
    recovery: Recovery
    rows: RowKeeper
    admission: Admission
    dispatcher: Dispatcher
    jobs: Jobs
    batches: Batches
    callbacks: CallbackSender
    backoff: Backoff


def steady_clock() -> Clock:
    """Unix seconds that never jump within this process, whatever happens to the wall clock."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


async def assemble(settings: Settings, store: Store, clock: Clock) -> Service:
    """Raises ConfigError."""
    world = World(_entries(settings), settings.rules(), clock)
    inbox = Inbox()
    devices = await detect(settings.devices.source, pynvml)
    exits = _Exits()
    environments = Environments(settings.engines_dir, shipped_recipes())
    runtime = make_runtime(settings, devices, environments, exits)
    model_files = make_model_files(settings, environments)
    backoff = Backoff(settings.scheduling.backoff_initial_seconds, settings.scheduling.backoff_max_seconds)
    rows, outlook, telemetry = RowKeeper(world, store), Outlook(world), Telemetry()
    observer = Observer(world, devices, runtime, _observer_rules(settings), inbox.report)
    dispatcher = Dispatcher(world, inbox.poke, observer.wake)
    actuator = Actuator(world, runtime, _launch_book(settings, model_files), Proofs(world, devices), inbox.report)
    exits.listener = actuator.exited
    around = Surroundings(dispatcher, store, clock, WAIT_TICK_SECONDS)
    admission = Admission(world, outlook, around, telemetry, _door_rules(settings, backoff))
    parts = Parts(world, dispatcher, actuator, rows, store, outlook, telemetry)
    media, commands = _media(settings, clock), Commands(world, store, inbox.poke)
    readers = Readers(admission, media, private_callbacks=settings.callbacks.allow_private_addresses)
    jobs = Jobs.make(JobSurroundings(around, admission, store, media.artifacts, telemetry, world), readers.prepare)
    files = FileFolder(settings.state_dir / "files")
    batches = _batches(settings, parts, files, jobs, admission)
    context = _context(settings, parts, _Orders(admission, commands, media, jobs, files, batches))
    return Service(
        app=application(context, readers),
        world=world,
        store=store,
        media=media,
        runtime=runtime,
        model_files=model_files,
        inbox=inbox,
        loop=Loop(inbox, parts, LoopRules(settings.scheduling.resync_seconds, backoff)),
        observer=observer,
        actuator=actuator,
        recovery=Recovery(world, store, runtime, rows, backoff),
        rows=rows,
        admission=admission,
        dispatcher=dispatcher,
        jobs=jobs,
        batches=batches,
        callbacks=_callbacks(settings, store, telemetry, clock),
        backoff=backoff,
    )


class _Exits:
    """Hands exits on to who is made after the runtime."""

    listener: Callable[[ReplicaExit], None]

    def __call__(self, exit_: ReplicaExit) -> None:
        self.listener(exit_)


def _entries(settings: Settings) -> dict[str, ModelEntry]:
    adapters = make_adapters()
    return {
        model.model_id: ModelEntry(
            settings=model,
            spec=model.spec(),
            adapter=adapters[model.engine.value],
            config_hash=settings.config_hash(model),
            load=Estimate(model.loading_time_sec),
            batching=_batching(model, adapters[model.engine.value]),
            stop_grace_seconds=float(model.options.get("stop_grace_seconds", DEFAULT_STOP_GRACE_SECONDS)),
        )
        for model in settings.models
    }


def _batching(model: ModelSettings, adapter: EngineAdapter) -> BatchRules:
    found = adapter.batching(model.launch("", model.vram_required_mb, {}))
    memory = RowMemory(found.spare_mib, found.row_mib) if found.row_mib else None
    return rules_for(Mode(found.mode), found.batch_rows, model.max_concurrency, found.linger_seconds, memory)


def _launch_book(settings: Settings, files: ModelFiles) -> LaunchBook:
    async def fetch(model_path: str, say: Callable[[str], None]) -> Path:
        return await files.fetch(model_path, lambda step: say(in_words(step)))

    engines = settings.engines
    return LaunchBook(
        fetch,
        {"vllm": _common_options("vllm", engines.vllm), "diffusers": _common_options("diffusers", engines.diffusers)},
    )


def _common_options(kind: str, engine: VllmSettings | DiffusersSettings) -> Mapping[str, Scalar]:
    options: dict[str, Scalar] = {}
    if engine.python is not None:
        options["environment"] = f"{kind}{OWN_SUFFIX}"
    elif engine.environment != "auto":
        options["environment"] = engine.environment
    if engine.threads is not None:
        options["threads"] = engine.threads
    return options


def _observer_rules(settings: Settings) -> ObserverRules:
    scheduling = settings.scheduling
    return ObserverRules(scheduling.resync_seconds, scheduling.stall_seconds, settings.devices.budget_mib)


def _door_rules(settings: Settings, backoff: Backoff) -> DoorRules:
    scheduling = settings.scheduling
    return DoorRules(
        queue_limit=scheduling.queue_limit,
        queue_limit_per_model=scheduling.queue_limit_per_model,
        default_deadline_seconds=scheduling.default_deadline_seconds,
        patience=backoff.patience,
    )


def _media(settings: Settings, clock: Clock) -> Media:
    kept, media = settings.artifacts, settings.media
    rules = FetchRules(
        enabled=media.fetch_urls,
        allow_private=media.allow_private_addresses,
        max_mib=media.max_image_mib,
        timeout=timedelta(seconds=media.fetch_timeout_seconds),
    )
    return Media(
        artifacts=Artifacts(
            settings.artifacts_dir, ArtifactLimits(kept.max_mib, timedelta(days=kept.max_age_days)), clock
        ),
        folder=MediaFolder(media.folder, media.max_image_mib),
        fetch=ImageFetcher(rules).fetch,
        intake=Intake(Limits(media.max_image_mib, media.max_image_megapixels)),
    )


def _callbacks(settings: Settings, store: Store, telemetry: Telemetry, clock: Clock) -> CallbackSender:
    """Raises ConfigError when the service's own secret cannot be read or made."""
    rules, named = settings.callbacks, dict[str, list[bytes]]()
    for each in rules.secrets:
        named.setdefault(each.name, []).append(decoded_secret(each.secret.get_secret_value()))
    secrets = Secrets(named, own_secret(settings.state_dir / "callback_secret"))
    return CallbackSender(
        store.outbox,
        Poster(PostRules(rules.allow_private_addresses, rules.timeout_seconds), secrets, NameLookups(_NAMES_AT_ONCE)),
        Lanes(LaneRules(rules.per_host)),
        SenderRules(rules.patience, random, clock),
        telemetry,
    )


def _batches(settings: Settings, parts: Parts, files: FileFolder, jobs: Jobs, admission: Admission) -> Batches:
    return Batches(
        BatchParts(
            store=parts.store,
            folder=files,
            taker=Taker(admission, line_ask),
            dispatcher=parts.dispatcher,
            orders=jobs.orders,
            clock=parts.world.clock,
            max_line_bytes=settings.server.max_body_mib * _MIB,
        )
    )


class _Orders(NamedTuple):
    """What the HTTP layer may ask for."""

    admission: Admission
    commands: Commands
    media: Media
    jobs: Jobs
    files: FileFolder
    batches: Batches


def _context(settings: Settings, parts: Parts, orders: _Orders) -> Context:
    return Context(
        keyring=Keyring(settings.api_keys, settings.server.cors_origins),
        admission=orders.admission,
        commands=orders.commands,
        outlook=parts.outlook,
        world=parts.world,
        store=parts.store,
        media=orders.media,
        jobs=orders.jobs,
        files=orders.files,
        batches=orders.batches,
        telemetry=parts.telemetry,
        max_body_bytes=settings.server.max_body_mib * _MIB,
        cors_origins=settings.server.cors_origins,
        version=metadata.version("inference-manager"),
    )
