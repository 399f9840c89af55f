"""The runtime's contract, the very suite that processes and the fake pass, on real containers behind the gate."""

from tests.contract.test_runtime_contract import *  # noqa: F403  # the tests, for this folder's `world`
