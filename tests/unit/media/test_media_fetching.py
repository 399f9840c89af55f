"""Addresses that callers name are fetched, and never become a way into the network."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from time import monotonic

import pytest
from picture_site import Site, moved, ok, site

from controlplane.errors import RequestRejected
from controlplane.media.fetching import FetchRules, ImageFetcher
from controlplane.media.outbound import Resolve, resolve_by_system

MIB = 1024 * 1024


class Names:
    """What each name resolves to, in turn; the last answer stays. Notes what was looked up."""

    def __init__(self, **answers: Sequence[str] | list[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(answer) for name, answer in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answer = self.answers.get(host)
        if answer is None:
            raise OSError(f"{host} is unknown to port {port}")
        if isinstance(answer[0], str):
            return answer
        return answer.pop(0) if len(answer) > 1 else answer[0]


# Self-signed for pictures.test, with its key; good for nothing else.
CERTIFICATE = Path(__file__).with_name("pictures.test.pem")
RULES = FetchRules(enabled=True, allow_private=True, max_mib=1, timeout=timedelta(seconds=20))
LOCAL = Names(pictures_test=["127.0.0.1"], other_test=["127.0.0.1"])


def fetcher(names: Resolve = LOCAL, seconds: float = 20, private: bool = True, enabled: bool = True) -> ImageFetcher:
    """Loopback stands for the internet where `private` is allowed."""
    return ImageFetcher(FetchRules(enabled, private, 1, timedelta(seconds=seconds)), names)


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    async with site() as running:
        yield running


async def refusal(work: ImageFetcher, url: str) -> str:
    with pytest.raises(RequestRejected) as rejected:
        await work.fetch(url, "image_url")
    error = rejected.value.error
    assert (error.status, error.param) == (400, "image_url")
    return error.message


async def test_a_picture_is_fetched(here: Site) -> None:
    """By name, with the name as Host; nothing about us or our proxies is sent along."""
    here.pages["/a.png?x=1"] = ok(b"pixels")
    url = f"http://pictures.test:{here.port}/a.png?x=1#part"
    assert await fetcher().fetch(url) == b"pixels"
    assert here.hosts == [f"pictures.test:{here.port}"]
    assert not [line for line in here.headers if line.startswith(("authorization", "cookie", "referer", "x-"))]


async def test_redirects_are_followed_within_bounds(here: Site) -> None:
    """Relative and absolute, three at most."""
    here.pages |= {
        "/1": moved("/2"),
        "/2": moved(f"http://other.test:{here.port}/3", 308),
        "/3": moved("4", 303),
        "/4": ok(b"pixels"),
        "/loop": moved("/loop"),
    }
    url = f"http://pictures.test:{here.port}"
    assert await fetcher().fetch(f"{url}/1") == b"pixels"
    assert here.asked == ["/1", "/2", "/3", "/4"]
    assert "redirects more than 3 times" in await refusal(fetcher(), f"{url}/loop")
    assert here.asked.count("/loop") == 4


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "not an address",
    ],
)
async def test_what_is_not_public_is_never_called(here: Site, address: str) -> None:
    """Whatever way it is written; no connection is tried."""
    names = Names(pictures_test=[address])
    assert "is not a public address" in await refusal(
        fetcher(names, private=False), f"http://pictures.test:{here.port}/"
    )
    assert here.asked == []


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0", "::", "::ffff:169.254.169.254"]
)
async def test_some_addresses_are_refused_even_where_private_ones_are_allowed(address: str) -> None:
    """Where clouds keep credentials, and what is no single machine."""
    assert "is not a public" in await refusal(fetcher(Names(pictures_test=[address])), "http://pictures.test/")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:7f00:1]", "localhost"]
)
async def test_numbers_are_judged_as_the_system_reads_them(here: Site, host: str) -> None:
    """Every spelling of loopback that the system's resolver understands is found out."""
    message = await refusal(fetcher(resolve_by_system, private=False), f"http://{host}:{here.port}/")
    assert "is not a public address" in message or "Invalid IPv4 address" in message
    assert here.asked == []


async def test_one_bad_address_among_good_ones_spoils_the_name() -> None:
    """A name that is public and private at once is trying something."""
    names = Names(pictures_test=["93.184.216.34", "127.0.0.1"])
    assert "is not a public" in await refusal(fetcher(names, private=False), "http://pictures.test/")


async def test_the_address_that_was_judged_is_the_one_that_is_called(here: Site) -> None:
    """A name that changes its answer after the look-up gains nothing: it is looked up once."""
    here.pages["/"] = ok(b"pixels")
    names = Names(pictures_test=[["127.0.0.1"], ["203.0.113.1"]])
    assert await fetcher(names).fetch(f"http://pictures.test:{here.port}/") == b"pixels"
    assert names.asked == ["pictures.test"]


async def test_each_redirect_is_judged_again(here: Site) -> None:
    """To another name, to the same name that now answers otherwise, to a number, to another scheme."""
    port = here.port
    here.pages |= {
        "/name": moved(f"http://inside.test:{port}/x"),
        "/number": moved("http://169.254.169.254/latest"),
        "/self": moved("/x"),
        "/file": moved("file:///etc/passwd"),
        "/user": moved(f"http://user:password@pictures.test:{port}/x"),
    }
    bad, good = ["169.254.169.254"], ["127.0.0.1"]
    for path, words in (
        ("/name", "not a public"),
        ("/self", "not a public"),
        ("/number", "cannot be resolved"),
        ("/file", "only http"),
        ("/user", "user name or password"),
    ):
        answers = [good, bad] if path == "/self" else [good]
        names = Names(pictures_test=answers, inside_test=bad)
        assert words in await refusal(fetcher(names), f"http://pictures.test:{port}{path}")
    assert "/x" not in here.asked


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "only http"),
        ("ftp://pictures.test/a", "only http"),
        ("gopher://pictures.test/a", "only http"),
        ("//pictures.test/a", "only http"),
        ("", "only http"),
        ("http://", "only http"),
        ("http:///a.png", "only http"),
        ("http://user@pictures.test/", "user name or password"),
        ("http://user:secret@pictures.test/", "user name or password"),
        ("http://pictures.test:99999/", "no port 99999"),
        ("http://pictures.test:0/", "no port 0"),
        ("http://pictures.test:x/", "InvalidURL"),
        ("http://pic\x00tures.test/", "InvalidURL"),
        ("http://absent.test/", "cannot be resolved"),
        (f"http://{'a' * 300}.test/", "cannot be"),
    ],
)
async def test_odd_addresses_are_refused(url: str, words: str) -> None:
    """With the reason, and without repeating a password."""
    message = await refusal(fetcher(), url)
    assert words in message
    assert "secret" not in message


async def test_too_much_is_cut_off(here: Site) -> None:
    """By what is announced as by what comes; the limit itself is read."""
    here.pages |= {
        "/fits": ok(bytes(MIB)),
        "/large": ok(bytes(MIB + 1)),
        "/endless": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + bytes(8 * MIB),
    }
    here.hanging.add("/endless")
    url = f"http://pictures.test:{here.port}"
    assert len(await fetcher().fetch(f"{url}/fits")) == MIB
    for path in ("/large", "/endless"):
        assert "more than 1 MiB" in await refusal(fetcher(), url + path)


async def test_a_compressed_answer_does_not_unfold(here: Site) -> None:
    """None is asked for, none is taken."""
    here.pages["/"] = ok(b"\x1f\x8b", "content-encoding: gzip")
    assert "compressed" in await refusal(fetcher(), f"http://pictures.test:{here.port}/")
    assert "accept-encoding: identity" in here.headers


async def test_a_server_that_dawdles_is_left(here: Site) -> None:
    """Half a head, half a body, or a name server that is silent: the time covers all of it."""

    class Silent(Names):
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            await asyncio.Event().wait()
            return ()

    here.pages |= {"/head": b"HTTP/1.1 200 OK\r\n", "/body": ok(bytes(100))[:-50]}
    here.hanging |= {"/head", "/body"}
    url = f"http://pictures.test:{here.port}"
    began = monotonic()
    assert "longer than 0.2 s" in await refusal(fetcher(seconds=0.2), f"{url}/head")
    assert "longer than 0.2 s" in await refusal(fetcher(seconds=0.2), f"{url}/body")
    assert "longer than 0.2 s" in await refusal(fetcher(Silent(), seconds=0.2), url)
    assert monotonic() - began < 60


async def test_a_server_that_fails_is_named(here: Site) -> None:
    """Its status, a broken answer, a body that breaks off, nobody there."""
    here.pages |= {"/garbage": b"hello\r\n\r\n", "/short": ok(bytes(100))[:-50]}
    url = f"http://pictures.test:{here.port}"
    assert "answered 404" in await refusal(fetcher(), f"{url}/absent")
    assert "RemoteProtocolError" in await refusal(fetcher(), f"{url}/garbage")
    assert "RemoteProtocolError" in await refusal(fetcher(), f"{url}/short")
    assert "ConnectError" in await refusal(fetcher(), "http://pictures.test:1/")


async def test_the_next_address_is_tried(here: Site) -> None:
    """A name with an address that nobody answers at is still reached."""
    here.pages["/"] = ok(b"pixels")
    names = Names(pictures_test=["127.0.0.2", "127.0.0.1"])
    assert await fetcher(names).fetch(f"http://pictures.test:{here.port}/") == b"pixels"


async def test_certificates_are_checked_against_the_name() -> None:
    """Not against the number that is called: the right name is served, another one is not, nor is a stranger's."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    async with site(server_side) as here:
        here.pages["/"] = ok(b"pixels")
        url = f"https://pictures.test:{here.port}/"
        assert await ImageFetcher(RULES, LOCAL, trusting).fetch(url) == b"pixels"
        assert "verify failed" in await refusal(ImageFetcher(RULES, LOCAL, trusting), url.replace("pictures", "other"))
        assert "verify failed" in await refusal(ImageFetcher(RULES, LOCAL), url)


async def test_fetching_can_be_switched_off(here: Site) -> None:
    """Then nothing is looked up, and the answer says what to do instead."""
    names = Names(pictures_test=["127.0.0.1"])
    message = await refusal(fetcher(names, enabled=False), f"http://pictures.test:{here.port}/")
    assert "data URL" in message
    assert (names.asked, here.asked) == ([], [])
