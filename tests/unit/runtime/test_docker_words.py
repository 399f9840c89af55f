"""The Docker engine's answers as our words: an exit's reason, an image's name, an error's advice."""

import pytest
from docker.errors import APIError, ImageNotFound, NotFound
from hypothesis import given
from hypothesis import strategies as st
from requests import Response
from requests.exceptions import ConnectionError as NoConnection

from adapters.vllm.log import failure
from controlplane.errors import RuntimeFailure
from controlplane.runtime.docker_engine import ContainerBusy, ContainerMissing, ImageMissing, mapped
from controlplane.runtime.docker_found import FoundContainer, exit_of
from controlplane.runtime.docker_images import split
from controlplane.runtime.docker_label import ContainerLabel, from_labels


def ended(*, code: int = 1, out_of_memory: bool = False, error: str = "") -> FoundContainer:
    label = ContainerLabel("llm-0", 2, "hash", "/run/x.sock", None)
    return FoundContainer(
        container_id="0123456789abcdef",
        label=label,
        alive=False,
        frozen=False,
        exit_code=code,
        out_of_memory=out_of_memory,
        limit_mib=128,
        error=error,
        host="",
        published_port=None,
    )


def test_an_exit_has_its_code_and_last_words() -> None:
    """In the order in which they were said."""
    report = exit_of(ended(code=7), ["first", "last"])
    assert (report.replica_id, report.generation, report.code) == ("llm-0", 2, 7)
    assert report.reason.splitlines() == ["exit code 7; its log ends:", "first", "last"]
    assert exit_of(ended(error="no such file"), []).reason == "exit code 1: no such file; its log is empty"


@given(st.lists(st.sampled_from(["INFO loading", "ValueError: bad", "Killed", ""]), max_size=5))
def test_a_kill_for_memory_is_the_cause_whatever_the_log_says(lines: list[str]) -> None:
    """The engines' own reading of a log finds it, for the kernel's victim had no time to say it."""
    reason = exit_of(ended(code=137, out_of_memory=True), lines).reason
    assert "out of memory" in failure(reason.splitlines())
    assert "128 MiB" in failure(reason.splitlines())


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("engine", ("engine", "latest")),
        ("engine:1", ("engine", "1")),
        ("vllm/vllm-openai:v0.32.0", ("vllm/vllm-openai", "v0.32.0")),
        ("127.0.0.1:5000/engine", ("127.0.0.1:5000/engine", "latest")),
        ("127.0.0.1:5000/a/engine:2", ("127.0.0.1:5000/a/engine", "2")),
        ("engine@sha256:00ff", ("engine", "sha256:00ff")),
        ("127.0.0.1:5000/engine@sha256:00ff", ("127.0.0.1:5000/engine", "sha256:00ff")),
    ],
)
def test_an_images_name_is_taken_apart(name: str, parts: tuple[str, str]) -> None:
    """A registry's port is no tag, and no tag is `latest`."""
    assert split(name) == parts


def _said(status: int, text: str, kind: type[APIError] = APIError) -> APIError:
    answer = Response()
    answer.status_code = status
    return kind(text, answer, text)


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (_said(404, "No such image: x:1", ImageNotFound), ImageMissing, "No such image"),
        (_said(404, "No such container: x", NotFound), ContainerMissing, "No such container"),
        (_said(409, "Container x is not running"), ContainerBusy, "is not running"),
        (_said(409, 'The name "/x" is already in use by container "y"'), ContainerBusy, "docker ps --all"),
        (
            _said(500, 'could not select device driver "" with capabilities: [[gpu]]'),
            RuntimeFailure,
            "nvidia-container-toolkit",
        ),
        (NoConnection("refused"), RuntimeFailure, "the Docker engine does not answer: refused; see that it runs"),
        (PermissionError(13, "Permission denied"), RuntimeFailure, "this user may use it"),
    ],
    ids=["image", "container", "ended", "name", "gpu", "away", "forbidden"],
)
def test_an_error_says_what_can_be_done(raised: Exception, kind: type[Exception], words: str) -> None:
    """The SDK's exceptions become ours, with the engine's words and, where there is one, the remedy."""
    with pytest.raises(kind) as told, mapped():
        raise raised
    assert type(told.value) is kind
    assert words in str(told.value)
    assert told.value.__cause__ is raised


@given(
    st.dictionaries(st.sampled_from(["im.replica", "im.generation", "im.config-hash", "im.port"]), st.text(max_size=5))
)
def test_labels_that_somebody_wrote_over_are_nobodys(labels: dict[str, str]) -> None:
    """Reading labels never fails: it is a replica's, or it is not."""
    found = from_labels(labels)
    complete = {"im.replica", "im.generation", "im.config-hash"} <= labels.keys()
    assert found is None or (complete and found.replica_id == labels["im.replica"])
