"""The gate's judgement: what the control plane needs passes, everything else is refused, whatever it looks like."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.gate.policy import Asked, Verdict, judge
from controlplane.gate.rules import Rules

RULES = Rules(
    images=("vllm/vllm-openai:*", "im-engine:1"),
    folders=("/srv/models",),
    volumes=("im-state",),
    networks=("im-engines",),
    store="abc",
)
LABELS = {"im.managed": "1", "im.store": "abc", "im.replica": "llm-0"}


def creation(host: dict[str, Any] | None = None, **fields: Any) -> Asked:
    body = {"Image": "im-engine:1", "Labels": LABELS, "HostConfig": host or {}, **fields}
    return Asked("POST", "/v1.41/containers/create", {"name": "im-abc-llm"}, json.dumps(body).encode())


GOOD_HOST: dict[str, Any] = {
    "Mounts": [
        {"Type": "bind", "Source": "/srv/models/chat", "Target": "/srv/models/chat", "ReadOnly": True},
        {"Type": "volume", "Source": "im-state", "Target": "/state"},
    ],
    "NetworkMode": "none",
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges:true"],
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "16m"}},
    "RestartPolicy": {"Name": "no"},
    "DeviceRequests": [{"DeviceIDs": ["0"], "Capabilities": [["gpu"]]}],
    "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
    "Privileged": False,
    "Binds": None,
}


def test_what_an_engine_needs_passes() -> None:
    """Models read-only, the state volume, a GPU, loopback ports, every guard: all of it together."""
    assert judge(creation(GOOD_HOST), RULES) == Verdict()


@pytest.mark.parametrize(
    "host",
    [
        {"Privileged": True},
        {"CapAdd": ["SYS_ADMIN"]},
        {"Devices": [{"PathOnHost": "/dev/sda"}]},
        {"Binds": ["/:/host"]},
        {"Mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}]},
        {"Mounts": [{"Type": "bind", "Source": "/srv/models/../../etc", "Target": "/host"}]},
        {"Mounts": [{"Type": "bind", "Source": "/srv/modelsandmore", "Target": "/host"}]},
        {"Mounts": [{"Type": "bind", "Source": "/var/run/docker.sock", "Target": "/docker.sock"}]},
        {"Mounts": [{"Type": "volume", "Source": "other", "Target": "/x"}]},
        {
            "Mounts": [
                {
                    "Type": "volume",
                    "Source": "im-state",
                    "Target": "/x",
                    "VolumeOptions": {"DriverConfig": {"Name": "x"}},
                }
            ]
        },
        {"NetworkMode": "host"},
        {"NetworkMode": "container:abc"},
        {"PidMode": "host"},
        {"IpcMode": "host"},
        {"UsernsMode": "host"},
        {"UTSMode": "host"},
        {"CgroupParent": "/"},
        {"CgroupnsMode": "host"},
        {"SecurityOpt": ["seccomp=unconfined"]},
        {"SecurityOpt": ["no-new-privileges", "apparmor=unconfined"]},
        {"VolumesFrom": ["im-gate"]},
        {"Sysctls": {"net.ipv4.ip_forward": "1"}},
        {"LogConfig": {"Type": "syslog", "Config": {"syslog-address": "tcp://198.51.100.1"}}},
        {"RestartPolicy": {"Name": "always"}},
        {"PortBindings": {"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "80"}]}},
        {"PortBindings": {"8000/tcp": [{"HostPort": "80"}]}},
        {"PublishAllPorts": True},
        {"DeviceRequests": [{"Capabilities": [["gpu"], ["all"]]}]},
        {"Runtime": "sysbox"},
        {"privileged": True},
        {"SomethingNew": {"x": 1}},
    ],
    ids=lambda host: json.dumps(host)[:50],
)
def test_what_reaches_beyond_an_engine_is_refused(host: dict[str, Any]) -> None:
    """Each way out of a container is refused by name."""
    verdict = judge(creation({**GOOD_HOST, **host}), RULES)
    assert verdict.refusal is not None
    assert verdict.refusal.startswith(f"HostConfig.{next(iter(host))}")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"Image": "evil:1"}, "evil:1"),
        ({"Image": "vllm/vllm-openai"}, "vllm/vllm-openai"),
        ({"Image": None}, "None"),
        ({"Labels": {}}, "labels"),
        ({"Labels": {**LABELS, "im.store": "other"}}, "labels"),
        ({"HostConfig": []}, "HostConfig"),
        ({"hostConfig": {"Privileged": True}}, "hostConfig"),
        ({"NetworkingConfig": {"EndpointsConfig": {"host": {}}}}, "host"),
        ({"Volumes": {"/x": {}}}, "Volumes"),
    ],
)
def test_a_creation_that_is_not_ours_is_refused(fields: dict[str, Any], word: str) -> None:
    """Foreign images, missing labels, other networks, and keys in another spelling."""
    host = fields.pop("HostConfig", GOOD_HOST)
    refusal = judge(creation(host, **fields), RULES).refusal if host else "HostConfig is empty"
    assert refusal is not None
    assert word in refusal


def test_a_key_given_twice_is_refused() -> None:
    """The engine merges what it is given twice; what the first one said must not pass unseen."""
    body = b'{"Image":"im-engine:1","Labels":%s,"HostConfig":{"Privileged":true},"HostConfig":{}}'
    asked = Asked("POST", "/containers/create", {}, body % json.dumps(LABELS).encode())
    assert "twice" in str(judge(asked, RULES).refusal)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'"text"'])
def test_a_creation_without_an_object_is_refused(body: bytes) -> None:
    """Whatever the engine would make of it."""
    assert judge(Asked("POST", "/containers/create", {}, body), RULES).refusal is not None


NETWORK: dict[str, Any] = {
    "Name": "im-engines",
    "Driver": "bridge",
    "CheckDuplicate": True,
    "Internal": True,
    "Labels": LABELS,
    "Options": None,
    "IPAM": None,
}


def network(**fields: Any) -> Asked:
    return Asked("POST", "/v1.41/networks/create", {}, json.dumps({**NETWORK, **fields}).encode())


def test_the_private_network_may_be_made() -> None:
    """A plain bridge under an allowed name, with our labels, with or without a way out."""
    assert judge(network(), RULES) == Verdict()
    assert judge(network(Internal=False), RULES) == Verdict()


@pytest.mark.parametrize(
    "fields",
    [
        {"Name": "other"},
        {"Name": None},
        {"Driver": "macvlan"},
        {"Driver": "host"},
        {"Labels": {}},
        {"Labels": {"im.managed": "1", "im.store": "other"}},
        {"Options": {"com.docker.network.bridge.name": "docker0"}},
        {"IPAM": {"Config": [{"Subnet": "10.0.0.0/8"}]}},
        {"EnableIPv6": True},
        {"Attachable": True},
        {"Ingress": True},
        {"ConfigFrom": {"Network": "x"}},
        {"Scope": "swarm"},
        {"SomethingNew": 1},
    ],
    ids=lambda fields: json.dumps(fields)[:50],
)
def test_other_networks_are_not_made(fields: dict[str, Any]) -> None:
    """Other names and drivers, and every option that reaches into the host."""
    refusal = judge(network(**fields), RULES).refusal
    assert refusal is not None
    assert next(iter(fields)).lower() in refusal.lower()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/containers/abc/exec"),
        ("POST", "/exec/abc/start"),
        ("POST", "/containers/abc/update"),
        ("POST", "/containers/abc/rename"),
        ("GET", "/containers/abc/archive"),
        ("PUT", "/containers/abc/archive"),
        ("GET", "/containers/abc/export"),
        ("POST", "/containers/abc/attach"),
        ("POST", "/containers/prune"),
        ("POST", "/build"),
        ("POST", "/commit"),
        ("POST", "/images/load"),
        ("POST", "/images/im-engine:1/push"),
        ("DELETE", "/images/im-engine:1"),
        ("GET", "/images/evil/json"),
        ("POST", "/networks/create"),
        ("GET", "/networks"),
        ("DELETE", "/networks/im-engines"),
        ("POST", "/networks/im-engines/connect"),
        ("POST", "/volumes/create"),
        ("GET", "/secrets"),
        ("POST", "/swarm/init"),
        ("POST", "/plugins/pull"),
        ("POST", "/session"),
        ("POST", "/containers/abc/../../build"),
        ("POST", "/containers/abc/%2e%2e/%2e%2e/build"),
        ("GET", "/v1.41/v1.41/_ping"),
    ],
)
def test_everything_without_a_rule_is_refused(method: str, path: str) -> None:
    """Executing, building, copying, and every way around the paths that pass."""
    assert judge(Asked(method, path, {}), RULES).refusal is not None


@pytest.mark.parametrize("path", ["/containers/json", "/v1.45/events"])
def test_listings_show_our_own_only(path: str) -> None:
    """Without the labels in the filter nothing is listed; with them it passes."""
    ours = json.dumps({"label": ["im.managed=1", "im.store=abc"]})
    assert judge(Asked("GET", path, {"filters": ours}), RULES) == Verdict()
    for query in ({}, {"filters": "{}"}, {"filters": '{"label":["im.managed=1"]}'}, {"filters": "["}):
        assert judge(Asked("GET", path, query), RULES).refusal is not None


@pytest.mark.parametrize(
    ("query", "passes"),
    [
        ({"fromImage": "vllm/vllm-openai", "tag": "v0.33.0"}, True),
        ({"fromImage": "vllm/vllm-openai", "tag": "sha256:00"}, False),
        ({"fromImage": "evil", "tag": "1"}, False),
        ({"fromSrc": "-", "fromImage": "im-engine", "tag": "1"}, False),
        ({}, False),
    ],
)
def test_only_allowed_images_are_pulled(query: dict[str, str], passes: bool) -> None:
    """By name and tag as the engine puts them together; imports never."""
    assert (judge(Asked("POST", "/images/create", query), RULES).refusal is None) is passes


@given(method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]), path=st.text(max_size=40).map(lambda text: "/" + text))
def test_no_path_by_chance(method: str, path: str) -> None:
    """Any path is judged without raising, and one that passes unseen is on the short list."""
    verdict = judge(Asked(method, path, {}), RULES)
    if verdict == Verdict():
        assert path.rsplit("/", maxsplit=1)[-1] in {"_ping", "version", "info", "json"}


@given(st.dictionaries(st.text(max_size=12), st.one_of(st.booleans(), st.integers(), st.text(max_size=8)), min_size=1))
def test_unknown_keys_never_pass(extra: dict[str, Any]) -> None:
    """Any key that no rule knows is refused unless it says nothing."""
    verdict = judge(creation({**GOOD_HOST, **extra}), RULES)
    assert (verdict.refusal is None) == (not any(extra.values()))
