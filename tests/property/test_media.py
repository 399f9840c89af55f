"""What holds for any address, any path, and any order of keeping, reading and removing results."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from controlplane.errors import RequestRejected
from controlplane.media.addresses import may_be_called
from controlplane.media.artifacts import ArtifactLimits, Artifacts
from controlplane.media.folder import MediaFolder

_INSIDE = [IPv4Network(text) for text in ("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
_NEVER = [IPv4Network(text) for text in ("169.254.0.0/16", "224.0.0.0/4", "0.0.0.0/8")]
_MIB = 1024 * 1024


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_in_every_disguise(address: IPv4Address) -> None:
    """Written as IPv6, or as a network without IPv4 would reach it."""
    mapped, translated = IPv6Address(0xFFFF << 32 | int(address)), IPv6Address(0x64FF9B << 96 | int(address))
    for private in (False, True):
        judged = may_be_called(str(address), private=private)
        assert may_be_called(str(mapped), private=private) == judged
        assert may_be_called(str(translated), private=private) == judged


@given(st.sampled_from(_INSIDE).flatmap(lambda network: st.ip_addresses(network=network)))
def test_inside_addresses_need_permission(address: IPv4Address) -> None:
    """Loopback and local networks, whole."""
    assert not may_be_called(str(address), private=False)
    assert may_be_called(str(address), private=True)


@given(st.sampled_from(_NEVER).flatmap(lambda network: st.ip_addresses(network=network)), st.booleans())
def test_some_addresses_are_never_called(address: IPv4Address, private: bool) -> None:
    """Link-local, multicast and this network, with permission or without."""
    assert not may_be_called(str(address), private=private)


@given(st.ip_addresses(v=6), st.booleans())
def test_a_tunnel_leads_nowhere(address: IPv6Address, private: bool) -> None:
    """6to4 and Teredo hide an IPv4 address; nothing that is asked for in earnest lies there."""
    low = int(address) & ((1 << 96) - 1)
    for prefix in (0x2002 << 112, 0x20010000 << 96):
        assert not may_be_called(str(IPv6Address(prefix | low)), private=private)


@given(st.text(max_size=40))
def test_what_is_no_address_is_not_called(text: str) -> None:
    """Nonsense from a resolver is refused, not raised."""
    assert not may_be_called(f"x{text}", private=True)


_PIECES = st.sampled_from(
    ["..", ".", "", "a.png", "sub", "up", "away", "inside", "secret", "media", "/", "\0", "~", "x"]
)


@given(st.lists(_PIECES, max_size=8), st.sampled_from(["", "/", "./", "{folder}/", "{folder}", "{folder}/../media/"]))
@settings(max_examples=200)
def test_no_path_leads_out_of_the_media_folder(pieces: list[str], start: str) -> None:
    """Whatever is put together from steps up, links and names: the file inside, or a refusal that names the field."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = root / "media"
        (folder / "sub").mkdir(parents=True)
        (root / "secret").write_text("secret")
        for inside in (folder / "a.png", folder / "sub/a.png"):
            inside.write_bytes(b"inside")
        (folder / "up").symlink_to(root)
        (folder / "away").symlink_to(root / "secret")
        (folder / "inside").symlink_to("a.png")
        try:
            content = run(MediaFolder(folder, 1).read(start.format(folder=folder) + "/".join(pieces)))
        except RequestRejected as rejected:
            content, param = None, rejected.error.param
            if param != "image_path":
                raise
        assert content in (None, b"inside")


class Keeping(RuleBasedStateMachine):
    """Results are put, read and removed in any order, while time passes and the service restarts."""

    kept = Bundle("kept")

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.now = 1e9
        self.used: dict[str, float] = {}
        self.content: dict[str, bytes] = {}
        self.restart()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule()
    def restart(self) -> None:
        limits = ArtifactLimits(max_mib=1, max_age=timedelta(days=1))
        self.artifacts = Artifacts(self.folder / "artifacts", limits, lambda: self.now)

    @rule(seconds=st.sampled_from([1.0, 3600.0, 40_000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=kept, seed=st.integers(0, 9), kib=st.sampled_from([1, 100, 400]))
    def put(self, seed: int, kib: int) -> str:
        content = bytes([seed]) * kib * 1024
        self.now += 1
        name: str = run(self.artifacts.put(content, "image/png")).name
        self.used[name], self.content[name] = self.now, content
        assert self.there(name)
        return name

    @rule(name=kept)
    def read(self, name: str) -> None:
        self.now += 1
        try:
            content, content_type = run(self.artifacts.read(name))
        except RequestRejected:
            assert not self.there(name)
        else:
            assert (content, content_type) == (self.content[name], "image/png")
            self.used[name] = self.now

    @rule()
    def prune(self) -> None:
        run(self.artifacts.prune(self.now))
        there = [name for name in self.used if self.there(name)]
        assert sum(len(self.content[name]) for name in there) <= _MIB
        assert all(self.now - self.used[name] <= 86_400 for name in there)

    @invariant()
    def the_last_used_is_there(self) -> None:
        """What was used a moment ago is never what makes room."""
        if self.used:
            last = max(self.used, key=lambda name: self.used[name])
            assert self.there(last) or self.now - self.used[last] > 86_400

    @invariant()
    def nothing_is_half_there(self) -> None:
        files = list(self.folder.glob("artifacts/*"))
        assert all(path.read_bytes() == self.content[path.name] for path in files)

    def there(self, name: str) -> bool:
        return (self.folder / "artifacts" / name).exists()


TestKeeping = Keeping.TestCase
