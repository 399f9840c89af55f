"""Judges what is to be made, a container or a network, by its whole body. Pure.

What is not known to be harmless is refused.
"""

from collections.abc import Callable, Mapping
from typing import Any

from controlplane.gate.rules import Rules

# Keys of the body and of its HostConfig that may hold anything. Others may hold nothing, or what is checked below.
_FREE = frozenset(
    {
        *("Hostname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty", "OpenStdin"),
        *("StdinOnce", "Env", "Cmd", "Entrypoint", "WorkingDir", "StopSignal", "StopTimeout", "Healthcheck", "Shell"),
        *("NetworkDisabled", "ArgsEscaped"),
    }
)
_FREE_HOST = frozenset(
    {
        *("Memory", "MemorySwap", "MemoryReservation", "NanoCpus", "CpuShares", "CpuQuota", "CpuPeriod", "CpusetCpus"),
        *(
            "PidsLimit",
            "ShmSize",
            "Tmpfs",
            "ReadonlyRootfs",
            "Init",
            "CapDrop",
            "Ulimits",
            "ConsoleSize",
            "BlkioWeight",
        ),
        *("OomKillDisable", "MemorySwappiness", "GroupAdd"),
    }
)
_FREE_NETWORK = frozenset({"CheckDuplicate", "Internal"})
_MOUNT_KEYS = frozenset({"Type", "Source", "Target", "ReadOnly", "Consistency"})
_LOG_DRIVERS = frozenset({"json-file", "local"})
_SECURITY = frozenset({"no-new-privileges", "no-new-privileges:true"})
_LOOPBACK = frozenset({"127.0.0.1", "::1"})
_RUNTIMES = frozenset({"nvidia", "runc"})

Check = Callable[[Any, Rules], str | None]


def judge_creation(body: Mapping[str, Any], rules: Rules) -> str | None:
    """Why the creation is refused; None when it is fine."""
    image = body.get("Image")
    if not isinstance(image, str) or not rules.allows_image(image):
        return f"image {image!r} is not allowed"
    if not rules.owns(body.get("Labels")):
        return "the container does not carry the control plane's labels"
    host = body.get("HostConfig") or {}
    if not isinstance(host, dict):
        return "HostConfig is no object"
    checked: dict[str, Check] = {"Image": _fine, "Labels": _fine, "HostConfig": _fine, "NetworkingConfig": _joined}
    return _judge("", body, _FREE, checked, rules) or _judge("HostConfig.", host, _FREE_HOST, _HOST_CHECKS, rules)


def judge_network(body: Mapping[str, Any], rules: Rules) -> str | None:
    """The same for a network: a plain bridge with an allowed name and our labels."""
    name = body.get("Name")
    if not isinstance(name, str) or name not in rules.networks:
        return f"the network's name {name!r} is not allowed"
    if not rules.owns(body.get("Labels")):
        return "the network does not carry the control plane's labels"
    checks: dict[str, Check] = {"Name": _fine, "Driver": _bridge, "Labels": _fine}
    return _judge("", body, _FREE_NETWORK, checks, rules)


def _judge(
    prefix: str, body: Mapping[str, Any], free: frozenset[str], checks: Mapping[str, Check], rules: Rules
) -> str | None:
    for key, value in body.items():
        if key in free or not value:
            continue
        check = checks.get(key)
        problem = f"{value!r} is not allowed" if check is None else check(value, rules)
        if problem is not None:
            return f"{prefix}{key}: {problem}"
    return None


def _fine(_value: Any, _rules: Rules) -> str | None:
    return None


def _mounts(value: Any, rules: Rules) -> str | None:
    if not isinstance(value, list):
        return "is no list"
    return next((problem for mount in value if (problem := _mount(mount, rules)) is not None), None)


def _mount(mount: Any, rules: Rules) -> str | None:
    if not isinstance(mount, dict) or set(mount) - _MOUNT_KEYS:
        return "has options that are not allowed"
    kind, source = mount.get("Type"), mount.get("Source")
    if not isinstance(source, str):
        return f"source {source!r} is not allowed"
    allowed = {"bind": rules.allows_folder(source), "volume": source in rules.volumes}
    return None if allowed.get(str(kind)) else f"{kind} of {source} is not allowed"


def _network(value: Any, rules: Rules) -> str | None:
    return None if isinstance(value, str) and rules.allows_network(value) else f"{value!r} is not allowed"


def _bridge(value: Any, _rules: Rules) -> str | None:
    return None if value == "bridge" else f"{value!r} is not allowed"


def _joined(value: Any, rules: Rules) -> str | None:
    names = (value.get("EndpointsConfig") or {}) if isinstance(value, dict) else None
    if not isinstance(names, dict):
        return "is no object"
    return next((f"network {name!r} is not allowed" for name in names if not rules.allows_network(name)), None)


def _security(value: Any, _rules: Rules) -> str | None:
    return None if isinstance(value, list) and set(value) <= _SECURITY else f"{value!r} is not allowed"


def _logs(value: Any, _rules: Rules) -> str | None:
    driver = value.get("Type") if isinstance(value, dict) else value
    return None if driver in _LOG_DRIVERS else f"driver {driver!r} is not allowed"


def _restart(value: Any, _rules: Rules) -> str | None:
    name = value.get("Name") if isinstance(value, dict) else value
    return None if name in ("no", "") else f"{name!r} is not allowed"


def _gpus(value: Any, _rules: Rules) -> str | None:
    if not isinstance(value, list):
        return "is no list"
    asked = [request.get("Capabilities") if isinstance(request, dict) else None for request in value]
    return None if all(one == [["gpu"]] for one in asked) else "only GPUs may be asked for"


def _ports(value: Any, _rules: Rules) -> str | None:
    if not isinstance(value, dict) or not all(isinstance(bindings, list) for bindings in value.values()):
        return "is no object of lists"
    bound = [binding for bindings in value.values() for binding in bindings]
    hosts = {binding.get("HostIp") if isinstance(binding, dict) else None for binding in bound}
    return None if hosts <= _LOOPBACK else "ports may be published on the loopback address only"


def _ipc(value: Any, _rules: Rules) -> str | None:
    return None if value in ("private", "none") else f"{value!r} is not allowed"


def _runtime(value: Any, _rules: Rules) -> str | None:
    return None if value in _RUNTIMES else f"{value!r} is not allowed"


_HOST_CHECKS: Mapping[str, Check] = {
    "Mounts": _mounts,
    "NetworkMode": _network,
    "SecurityOpt": _security,
    "LogConfig": _logs,
    "RestartPolicy": _restart,
    "DeviceRequests": _gpus,
    "PortBindings": _ports,
    "IpcMode": _ipc,
    "Runtime": _runtime,
}
