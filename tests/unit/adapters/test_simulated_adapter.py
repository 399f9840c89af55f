"""The launch of the simulated engine; what it says on the wire is in the contract suite."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.base import Launch, ModelLaunch, Target
from adapters.errors import LaunchError
from adapters.simulated import OVERHEAD_MIB, SimulatedAdapter
from engines.simulated.script import parse_script


def launch(**changes: Any) -> Launch:
    entry: dict[str, Any] = {
        "model_id": "sim",
        "aliases": ("chat",),
        "types": ("text2text",),
        "model_path": "",
        "budget_mib": 256,
        "max_concurrency": 4,
    }
    return SimulatedAdapter().launch(ModelLaunch(**(entry | changes)), Target("host", 0, 1024))


def script(planned: Launch) -> dict[str, Any]:
    """The script that the engine will read, which it must accept."""
    text = planned.argv[planned.argv.index("--script") + 1]
    parse_script(text)
    fields = json.loads(text)
    assert isinstance(fields, dict)
    return fields


def test_the_whole_command_line() -> None:
    """Our own interpreter, every name, and a claim of the whole budget but what the process itself takes."""
    planned = launch(args=("--state-dir", "/s"))
    head, tail = planned.argv[:8], planned.argv[-2:]
    assert " ".join(head) == "{python} -m engines.simulated --uds {uds} --model sim chat"
    assert script(planned) == {"max_num_seqs": 4, "memory_mib": 256 - OVERHEAD_MIB}
    assert tail == ("--state-dir", "/s")
    assert (planned.environment, planned.listen) == (None, "unix")


def test_options_are_keys_of_the_script_and_go_before_a_whole_one() -> None:
    """A script given as text is the base; single options and an own memory claim replace its values."""
    whole = json.dumps({"load_seconds": 3, "faults": [{"kind": "crash", "token": 2}], "answer_tokens": 5})
    fields = script(launch(options={"script": whole, "answer_tokens": 9, "memory_mib": 10}))
    assert fields["load_seconds"] == 3
    assert fields["faults"] == [{"kind": "crash", "token": 2}]
    assert (fields["answer_tokens"], fields["memory_mib"]) == (9, 10)


def test_the_cache_is_part_of_the_budget() -> None:
    """What is claimed for weights is what the scripted cache leaves; a tiny budget claims nothing."""
    assert script(launch(options={"kv_cache_mib": 100}))["memory_mib"] == 256 - OVERHEAD_MIB - 100
    assert script(launch(budget_mib=8))["memory_mib"] == 0


def test_a_slow_load_gets_the_time_it_is_scripted_to_take() -> None:
    """The start does not time out because of its own script."""
    assert launch(options={"load_seconds": 100}).ready_timeout_seconds == 160
    assert launch(options={"load_seconds": 100, "ready_timeout_seconds": 5}).ready_timeout_seconds == 5
    assert launch(options={"stop_grace_seconds": 0.5}).stop_grace_seconds == 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"load_second": 1}, "unknown key load_second; did you mean load_seconds?"),
        ({"tokens_per_second": -1}, "must be at least 0"),
        ({"script": "{"}, "the option script is not JSON"),
        ({"script": "[]"}, "the option script must be a JSON object"),
    ],
)
def test_a_wrong_script_is_refused_before_anything_starts(options: dict[str, Any], says: str) -> None:
    """Each is a LaunchError that names the model and what is wrong."""
    with pytest.raises(LaunchError, match="cannot start sim: ") as caught:
        launch(options=options)
    assert says in str(caught.value)
