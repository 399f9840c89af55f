"""Labels and file names: every replica has its own, and no foreign bytes confuse the reader."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from adapters.endpoint import Endpoint
from controlplane.runtime.process_files import ReplicaFiles
from controlplane.runtime.process_label import Label, Stranger, from_environment, to_environment

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200)
ENDPOINTS = st.one_of(
    st.builds(Endpoint.tcp, st.sampled_from(["127.0.0.1", "localhost", "::1"]), st.integers(1, 65535)),
    st.builds(Endpoint.unix, TEXT),
)
LABELS = st.builds(Label, TEXT, st.integers(0, 2**63), TEXT, ENDPOINTS)


def environ(variables: dict[str, str]) -> bytes:
    return b"\0".join(f"{name}={value}".encode() for name, value in variables.items()) + b"\0"


@given(LABELS, TEXT)
def test_a_label_reads_as_written(label: Label, store_id: str) -> None:
    """Whatever the names hold, the environment carries them unchanged."""
    assert from_environment(environ({"PATH": "/bin", **to_environment(label, store_id)}), store_id) == label


@given(LABELS, TEXT, TEXT)
def test_another_stores_label_is_recognised_as_such(label: Label, ours: str, theirs: str) -> None:
    """A label is ours only with exactly our store id."""
    expected = label if ours == theirs else Stranger.OTHER_STORE
    assert from_environment(environ(to_environment(label, theirs)), ours) == expected


@given(st.binary(max_size=300), st.sampled_from(["IM_STORE", "IM_GENERATION", "IM_ENDPOINT"]), st.binary(max_size=20))
def test_foreign_bytes_never_raise(noise: bytes, name: str, value: bytes) -> None:
    """Any process may have any environment: it is a stranger, not an error."""
    read = from_environment(noise + b"\0" + name.encode() + b"=" + value + b"\0IM_STORE=s\0", "s")
    assert isinstance(read, Stranger)


def test_titles_do_not_erase_the_label() -> None:
    """setproctitle, which vLLM calls, is told to leave the environment's memory alone."""
    label = Label("llm-0", 1, "hash", Endpoint.unix("/s"))
    assert to_environment(label, "s")["SPT_NOENV"] == "1"


@given(st.lists(TEXT, min_size=2, max_size=6, unique=True), st.sampled_from(["/var/lib/im", "/" + "d" * 120]))
def test_every_replica_has_files_of_its_own(replica_ids: list[str], state_dir: str) -> None:
    """No two ids share a file, none reaches out of its folder, and sockets fit the kernel's limit."""
    files = [ReplicaFiles(Path(state_dir), "store", replica_id) for replica_id in replica_ids]
    for paths in ([one.log for one in files], [one.work_dir for one in files], [one.socket for one in files]):
        assert len(set(paths)) == len(replica_ids)
    for paths in ([one.log for one in files], [one.work_dir for one in files]):
        assert len({path.parent for path in paths}) == 1
        assert all(len(path.name.encode()) <= 255 for path in paths)
    assert all(".." not in one.work_dir.parts and len(bytes(one.socket)) <= 107 for one in files)


def test_dots_are_no_directories() -> None:
    """A replica may be called "." or ".." without its folder being somebody else's."""
    for replica_id in (".", ".."):
        files = ReplicaFiles(Path("/state"), "store", replica_id)
        assert files.work_dir.name == "%2E" * len(replica_id) + ".d"
