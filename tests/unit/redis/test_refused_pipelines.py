"""Which pipelines a demoted server has not run a write of, so that they may be sent again as a whole."""

import pytest

from agent_memory.redis.commands.bound_command import BoundCommands
from agent_memory.redis.commands.prepared_pipeline import prepare_pipeline, refusal_of
from agent_memory.redis.error_outcomes import reply_error

READONLY = "READONLY You can't write against a read only replica."
READ = (("GET", "key"), {})
WRITE = (("INCR", "counter"), {})


def refusal(commands, replies, transaction=False):
    prepared = prepare_pipeline(BoundCommands(None), commands, transaction)
    return refusal_of(prepared, [reply_error(reply) if isinstance(reply, str) else reply for reply in replies])


@pytest.mark.parametrize(
    ("commands", "replies"),
    [
        ([WRITE], [READONLY]),
        ([READ, WRITE], [b"value", READONLY]),
        ([WRITE, READ, WRITE], [READONLY, None, READONLY]),
        ([WRITE, WRITE], ["LOADING Redis is loading the dataset in memory", READONLY]),
        ([WRITE, WRITE], ["NOPERM no permissions", READONLY]),
    ],
)
def test_no_write_was_run(commands, replies):
    assert str(refusal(commands, replies)) in READONLY


@pytest.mark.parametrize(
    ("commands", "replies"),
    [
        ([WRITE], [1]),
        ([READ], [b"value"]),
        ([WRITE, WRITE], [1, READONLY]),
        ([WRITE, WRITE], [READONLY, 1]),
        ([WRITE, WRITE], [READONLY, "LOADING Redis is loading the dataset in memory script: 4e6d, on @user_script:1."]),
        (
            [(("EVAL", "script", 0), {})],
            [READONLY + " script: 4e6d8fc8bb01276962cce5371fa795a7763657ae, on @user_script:1."],
        ),
    ],
)
def test_a_write_may_have_been_run(commands, replies):
    assert refusal(commands, replies) is None


def test_a_transaction_is_run_as_a_whole_or_not():
    aborted = "EXECABORT Transaction discarded because of previous errors."
    assert str(refusal([READ, WRITE], [b"OK", b"QUEUED", READONLY, aborted], True)) in READONLY
    # Demoted between MULTI and EXEC, or a command that was refused inside: EXEC tells what has run.
    assert refusal([READ, WRITE], [b"OK", b"QUEUED", b"QUEUED", [b"value", reply_error(READONLY)]], True) is None
    assert refusal([READ, WRITE], [b"OK", b"QUEUED", b"QUEUED", [b"value", 1]], True) is None
