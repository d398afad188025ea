"""`ClusterCore` and `ClusterPipeline` from Python: keys and replies as redis-py has them, handles, callbacks, errors."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis._parsers.base import BaseParser
from redis.connection import Encoder
from redis.crc import key_slot as redis_py_slot

from agent_memory._core import (
    ASKING,
    CLUSTER_ASK,
    CLUSTER_FULL,
    CLUSTER_RAISE,
    CLUSTER_REJECT,
    CLUSTER_RESOLVE,
    CLUSTER_ROUTE,
    CLUSTER_SEND,
    CLUSTER_WAIT,
    CLUSTER_WAIT_ROUTE,
    ClusterCore,
    ClusterPipeline,
    key_slot,
    monotonic_ns,
    pack_command,
    slot_tag,
)

ENCODER = Encoder("utf-8", "strict", False)
INFO = "cluster_state:ok\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_current_epoch:{}\r\n"
SLOTS = [
    [0, 5460, [b"10.0.0.1", 7001, b"id-1", []], [b"10.0.0.4", 7004, b"id-4", [b"availability-zone", b"eu-1a"]]],
    [5461, 10922, [b"", 7002, b"id-2", []]],
    [10923, 16383, [None, 7003, b"id-3", [b"hostname", b"three.example"]]],
]


class Handle:
    def __init__(self, node, host, port):
        self.node, self.host, self.port = node, host, port


def error(text):
    return BaseParser.parse_error(text)


def answer(core, slots, epoch=1, asked_ns=None):
    asked_ns = monotonic_ns() if asked_ns is None else asked_ns
    return core.answer(0, core.number_of("seed", 7000), asked_ns, slots, INFO.format(epoch))


def covered(slots=SLOTS, **options):
    core = ClusterCore([("seed", 7000)], Handle, seed=1, **options)
    assert answer(core, slots) == "accepted"
    return core


keys = st.one_of(
    st.text(st.sampled_from("{}ab€")),
    st.text(),
    st.binary(),
    st.binary().map(bytearray),
    st.binary().map(memoryview),
    st.integers(),
    st.floats(allow_nan=False),
)


@given(keys)
def test_slots_are_those_of_redis_py(key):
    try:
        encoded = bytes(ENCODER.encode(bytes(key) if isinstance(key, bytearray) else key))
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            key_slot(key)
        return
    assert key_slot(key) == redis_py_slot(encoded)


def test_views_of_a_strided_memoryview_are_read_as_they_are_sent():
    assert key_slot(memoryview(b"f.o.o")[::2]) == key_slot("foo")


@pytest.mark.parametrize("key", [None, True, object(), ["a"]])
def test_what_cannot_be_a_key_is_refused(key):
    with pytest.raises(TypeError, match="key must be str, bytes"):
        key_slot(key)


def test_tags_lead_to_their_slots():
    assert all(key_slot("{" + slot_tag(slot) + "}x") == slot for slot in range(0, 16384, 7))
    with pytest.raises(ValueError, match="slot must be >= 0 and <= 16383, got 16384"):
        slot_tag(16384)


def test_routes_to_handles_that_are_made_once():
    core = covered()
    handle = core.route("foo")  # slot 12182
    assert (handle.host, handle.port) == ("seed", 7003)
    assert core.route(b"foo") is handle is core.handle(handle.node) is core.route_slot(12182)
    assert core.owner(12182) == handle.node == core.number_of("seed", 7003)
    with pytest.raises(KeyError):
        core.handle(99)


def test_without_a_view_there_is_no_owner():
    core = ClusterCore([("seed", 7000)], Handle)
    assert core.route("foo") is None
    assert core.uncovered == 16384
    assert core.wait_or_reject(-1, 12182, False) == CLUSTER_WAIT
    assert core.stats()["waiting"] == {-1: 1}
    core.end_waiting(-1)


@pytest.mark.parametrize("resp3", [False, True])
def test_shards_give_the_same_as_slots(resp3):
    def table(**fields):
        pairs = {name.replace("_", "-").encode(): value for name, value in fields.items()}
        return pairs if resp3 else [part for pair in pairs.items() for part in pair]

    def node(number, role, **more):
        return table(id=b"id-%d" % number, port=7000 + number, ip=b"10.0.0.%d" % number, endpoint=b"10.0.0.%d" % number,
                     role=role, health=b"online", **more)  # fmt: skip

    shards = [
        table(slots=[0, 99, 200, 16383], nodes=[node(4, b"replica", availability_zone=b"eu-1a"), node(1, b"master")]),
        table(slots=[100, 199], nodes=[node(2, b"master", tls_port=8002)]),
        table(slots=[], nodes=[node(3, b"master")]),
    ]
    core = covered(shards)
    one, two, four = (core.number_of(f"10.0.0.{number}", 7000 + number) for number in (1, 2, 4))
    assert core.slot_ranges() == [(0, 99, one, [four]), (100, 199, two, []), (200, 16383, one, [four])]
    assert [row[:4] for row in core.nodes() if row[5] == "eu-1a"] == [(four, "10.0.0.4", 7004, "id-4")]
    assert covered(shards, is_tls=True).number_of("10.0.0.2", 8002) is not None


@pytest.mark.parametrize(
    "slots",
    [
        "no",
        [[0]],
        [[0, 16384, [b"a", 1, b"id"]]],
        [[5, 4, [b"a", 1, b"id"]]],
        [[0, 9, [b"a", 1, b"x"]], [9, 12, [b"b", 1, b"y"]]],
        [[0, 9]],
        [[0, 9, b"a"]],
        [[0, 9, [b"a"]]],
        [[0, 9, [b"a", b"port", b"x"]]],
    ],
)
def test_malformed_views_are_refused_and_change_nothing(slots):
    core = covered()
    before = core.slot_ranges()
    with pytest.raises(ValueError, match="slots must be a reply of CLUSTER SLOTS or SHARDS"):
        answer(core, slots, epoch=9)
    assert core.slot_ranges() == before


def test_addresses_go_through_the_remapping():
    core = covered(remap=lambda address: ("nat", address[1] + 1000))
    assert {(row[1], row[2]) for row in core.nodes() if row[7]} == {("nat", port) for port in (8001, 8002, 8003, 8004)}
    action, node, _, _ = core.redirect(error("MOVED 1 10.0.0.9:7009"), core.owner(1), 0, monotonic_ns(), 0)
    assert (action, core.handle(node).host, core.handle(node).port) == (CLUSTER_SEND, "nat", 8009)

    def broken(address):
        raise RuntimeError("remap")

    core = ClusterCore([("seed", 7000)], Handle, remap=broken)
    with pytest.raises(RuntimeError, match="remap"):
        answer(core, SLOTS)
    assert core.uncovered == 16384


def test_a_hostname_that_is_not_set_gives_way_to_the_address():
    core = covered([[0, 16383, [b"?", 7001, b"id", [b"ip", b"10.0.0.1"]], [b"?", 7002, b"id-2", []]]])
    assert core.slot_ranges() == [(0, 16383, core.number_of("10.0.0.1", 7001), [])]


def test_ipv6_addresses():
    core = covered([[0, 16383, [b"2001:db8::1", 7001, b"id", []]]])
    action, node, _, _ = core.redirect(error("MOVED 1 2001:db8::2:7002"), core.owner(1), 0, monotonic_ns(), 0)
    assert (action, core.handle(node).host, core.handle(node).port) == (CLUSTER_SEND, "2001:db8::2", 7002)


def test_older_views_stay_out():
    core = covered()
    later = monotonic_ns()
    moved = [[0, 16383, [b"10.0.0.2", 7002, b"id-2", []]]]
    assert answer(core, moved, epoch=3) == "accepted"
    assert answer(core, SLOTS, epoch=2) == "stale"
    assert answer(core, SLOTS, epoch=3, asked_ns=later) == "stale"
    assert answer(core, moved, epoch=3) == "unchanged"
    assert core.answer(0, 0, monotonic_ns(), None, INFO.format(4)) == "wanted"
    assert core.answer(0, 0, monotonic_ns(), None, INFO.format(3)) == "unchanged"


def test_redirects():
    core = covered()
    one, four = core.owner(0), core.number_of("10.0.0.4", 7004)
    sent = monotonic_ns()
    asked = core.redirect(error("ASK 0 10.0.0.4:7004"), one, 0, sent, 0)
    assert (asked[0], asked[1], asked[2], core.owner(0)) == (CLUSTER_ASK, four, 0.0, one)
    for text in (
        "TRYAGAIN Multiple keys",
        "CLUSTERDOWN Hash slot not served",
        "READONLY You can't write",
        "LOADING x",
        "MASTERDOWN x",
    ):
        action, _, pause_s, _ = core.redirect(error(text), one, 0, sent, 0)
        assert action == CLUSTER_ROUTE
        assert 0 < pause_s < 0.3
    assert core.redirect(error("MOVED 0 10.0.0.1:7001"), one, 0, sent, 0)[0] == CLUSTER_RESOLVE
    assert core.redirect(error("MOVED 0 :7004"), one, 0, sent, 0)[1] == core.number_of("10.0.0.1", 7004)
    for text in ("ERR unknown command", "CROSSSLOT Keys", "WRONGTYPE x"):
        assert core.redirect(error(text), one, 0, sent, 0)[0] == CLUSTER_RAISE
    assert core.redirect(error("CLUSTERDOWN x"), one, 0, sent, monotonic_ns())[0] == CLUSTER_RAISE, "no time is left"


def test_a_loop_of_redirects_ends():
    core = covered()
    progress, actions = 0, []
    for number in range(9):
        text = "MOVED 0 10.0.0.4:7004" if number % 2 == 0 else "MOVED 0 10.0.0.1:7001"
        node = core.owner(0)
        action, _, _, progress = core.redirect(error(text), node, progress, monotonic_ns(), 0)
        actions.append(action)
    assert actions == [CLUSTER_SEND] * 8 + [CLUSTER_RAISE]


def test_a_key_that_has_not_arrived_yet_is_no_loop():
    core = covered()
    progress, one = 0, core.owner(0)
    for _ in range(20):
        action, target, _, progress = core.redirect(error("ASK 0 10.0.0.4:7004"), one, progress, monotonic_ns(), 0)
        assert action == CLUSTER_ASK
        action, _, _, progress = core.redirect(error("TRYAGAIN Multiple keys"), target, progress, monotonic_ns(), 0)
        assert action == CLUSTER_ROUTE


def test_waiting_calls_are_woken_by_the_view_that_moves_their_slot():
    woken, due = [], []
    core = covered(wake=woken.append, refresh_due=lambda: due.append(1), max_waiting_commands=2)
    one = core.owner(0)
    core.node_failed(one)
    assert [core.wait_or_reject(one, 0, True) for _ in range(3)] == [CLUSTER_WAIT, CLUSTER_WAIT, CLUSTER_FULL]
    assert core.wait_or_reject(one, -1, True) == CLUSTER_REJECT, "bound to the node"
    assert due
    assert answer(core, [[0, 16383, [b"10.0.0.4", 7004, b"id-4", []]]], epoch=2) == "accepted"
    assert woken == [[one]]
    core.end_waiting(one)
    core.end_waiting(one)
    assert core.wait_or_reject(one, 0, True) == CLUSTER_WAIT_ROUTE


def test_a_node_that_the_cluster_stands_by_is_rejected_without_replicas_only():
    core = covered()
    one, two = core.owner(0), core.owner(6000)
    for node, slot in ((one, 0), (two, 6000)):
        core.node_opened(node)
        assert core.wait_or_reject(node, slot, True) == CLUSTER_WAIT
        core.end_waiting(node)
    assert answer(core, SLOTS) == "unchanged"
    assert core.wait_or_reject(one, 0, True) == CLUSTER_WAIT, "its replica may be promoted"
    core.end_waiting(one)
    assert core.wait_or_reject(two, 6000, True) == CLUSTER_REJECT
    core.node_closed(two)
    assert core.wait_or_reject(two, 6000, False) == CLUSTER_WAIT_ROUTE


def test_the_first_questions_go_to_the_seeds():
    core = ClusterCore([("seed", 7000), ("other", 7000)], Handle)
    delay_s, round_, questions = core.next_questions([])
    assert (delay_s, round_, sorted(questions)) == (0.0, 1, [(0, True), (1, True)])
    assert 0 < core.next_questions([])[0] <= 1, "one round at a time"
    core.no_answer(round_, 0)
    core.no_answer(round_, 1)
    assert 0 < core.next_questions([])[0] <= 0.2


def test_nodes_that_nothing_names_are_retired():
    core = covered()
    seed, two = core.number_of("seed", 7000), core.owner(6000)
    handles = {core.handle(node) for node in (seed, two, core.owner(0))}
    assert core.retirable() == [seed]
    assert core.retire(two) is None, "it owns slots"
    assert answer(core, [[0, 16383, [b"10.0.0.1", 7001, b"id-1", []]]], epoch=2) == "accepted"
    assert core.retirable() == [seed, two]
    assert core.retire(two) in handles
    assert core.number_of("seed", 7002) is None
    assert core.retire(seed) in handles
    assert core.number_of("seed", 7000) == seed, "seeds can be asked again"


def test_plans():
    core = covered()
    assert core.plan("MGET", []) == -1
    assert core.plan("MGET", ["{a}1", b"{a}2"]) == key_slot("a")
    assert core.plan("MGET", ["a", "b"]) is None
    assert core.plan("DEL", ("a", "b", "{a}1")) == [(key_slot("a"), [0, 2]), (key_slot("b"), [1])]
    assert core.split(iter(["a", "b"])) == [(key_slot("a"), [0]), (key_slot("b"), [1])]


PLACES = {"GET": 1, "SET": 1, "PING": 0, "EVAL": -1, "XGROUP CREATE": 1}


def test_a_pipeline_is_packed_per_node_and_answered_by_position():
    core = covered()
    commands = [
        ("SET", "foo", 1),
        ("GET", "bar"),
        ("PING",),
        ("EVAL", "x", 2, "foo", "{foo}2"),
        ("XGROUP CREATE", "foo", "g", "$"),
    ]
    pipeline = ClusterPipeline(core, commands, PLACES, 0, {3: key_slot("foo")})
    pause_s, batches, homeless = pipeline.next_round()
    assert (pause_s, homeless) == (0.0, -1)
    assert sorted(position for batch in batches for position in batch.positions) == list(range(5))
    for batch in batches:
        words = [tuple(commands[position]) for position in batch.positions]
        flat = [("XGROUP", "CREATE", *word[1:]) if word[0] == "XGROUP CREATE" else word for word in words]
        assert batch.packed == b"".join(map(pack_command, flat))
        assert batch.count == len(words)
        assert batch.handle is core.handle(batch.node)
        pipeline.answered(batch, [f"reply {position}" for position in batch.positions], monotonic_ns())
    assert pipeline.next_round() is None
    assert pipeline.results() == [f"reply {position}" for position in range(5)]


def test_what_a_pipeline_was_answered_is_never_sent_again_and_redirects_keep_their_order():
    core = covered([[0, 16383, [b"10.0.0.1", 7001, b"id-1", []], [b"10.0.0.4", 7004, b"id-4", []]]])
    commands = [("GET", "{a}1"), ("GET", "b"), ("GET", "{a}2"), ("GET", "c")]
    pipeline = ClusterPipeline(core, commands, [1, 1, 1, 1])
    _, (batch,), _ = pipeline.next_round()
    slot = key_slot("a")
    ask = error(f"ASK {slot} 10.0.0.4:7004")
    pipeline.answered(batch, [ask, None, ask, error("WRONGTYPE x")], monotonic_ns())
    _, (batch,), _ = pipeline.next_round()
    assert (batch.positions, batch.count, batch.reply_places) == ([0, 2], 4, [1, 3])
    assert batch.packed == ASKING + pack_command(commands[0]) + ASKING + pack_command(commands[2])
    pipeline.answered(batch, [b"OK", b"1", b"OK", []], monotonic_ns())
    assert pipeline.next_round() is None
    results = pipeline.results()
    assert results[:3] == [b"1", None, []]
    assert "WRONGTYPE" in str(results[3])


def test_a_lost_connection_leaves_what_was_sent_unknown_and_sends_the_rest_again():
    core = covered()
    commands = [("SET", "foo", 1), ("SET", "bar", 2), ("SET", "{foo}2", 3)]
    pipeline = ClusterPipeline(core, commands, PLACES)
    _, batches, _ = pipeline.next_round()
    by_first = {batch.positions[0]: batch for batch in batches}
    assert by_first[0].positions == [0, 2]
    lost, refused = ConnectionResetError("lost"), ConnectionRefusedError("refused")
    pipeline.failed(by_first[0], [b"OK"], lost, True, monotonic_ns())
    pipeline.failed(by_first[1], [], refused, False, monotonic_ns())
    _, (again,), _ = pipeline.next_round()
    assert again.positions == [1]
    assert pipeline.give_up(refused) == 1
    assert pipeline.next_round() is None
    assert pipeline.results() == [b"OK", refused, lost]


def test_a_pipeline_without_owners_says_which_slot_it_waits_for():
    core = ClusterCore([("seed", 7000)], Handle)
    pipeline = ClusterPipeline(core, [("GET", "foo")], PLACES)
    assert pipeline.next_round() == (0.0, [], key_slot("foo"))
    answer(core, SLOTS)
    _, (batch,), homeless = pipeline.next_round()
    assert (batch.positions, homeless) == ([0], -1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": []}, "seeds must name a node, got none"),
        ({"seeds": [("", 1)]}, "seeds must be"),
        ({"failover_wait_s": 0}, "failover_wait_s must be > 0 seconds, got 0.0"),
        ({"max_waiting_commands": 0}, "max_waiting_commands must be >= 1, got 0"),
        ({"period_s": -1}, "period_s must be > 0 seconds"),
    ],
)
def test_wrong_settings_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClusterCore(**{"seeds": [("seed", 7000)], "make_handle": Handle, **arguments})


def test_a_core_and_its_handles_are_collected_with_the_client_they_refer_to():
    class Client:
        def make(self, node, host, port):
            return (self, node)

    client = Client()
    client.core = ClusterCore([("seed", 7000)], client.make, wake=client.make)
    client.core.handle(0)
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
