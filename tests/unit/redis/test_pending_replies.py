"""Whose answer a reply is, by what was sent before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse

from agent_memory.redis.subscriptions import pending_replies as module
from agent_memory.redis.subscriptions.pending_replies import Asker, PendingReplies, is_confirmation

KINDS = ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"]
COMMANDS = st.one_of(
    st.sampled_from([("CLIENT", "INFO"), ("PING",)]).map(lambda words: (words, Asker.CALLER)),
    st.sampled_from([Asker.PING, Asker.AUTH]).map(lambda asker: ((asker.name,), asker)),
    st.tuples(st.sampled_from(KINDS), st.lists(st.sampled_from(["a", b"a", b"b", "c"]), max_size=3)).map(
        lambda pair: (
            (pair[0], *(pair[1] or (["a"] if pair[0][0] != "U" and "UN" not in pair[0] else []))),
            Asker.CALLER,
        )
    ),
)


class Server:
    """PendingReplies commands in their order, as Redis does: (confirmation word or None, is it an error)."""

    def __init__(self):
        self.subscribed = {"": set(), "P": set(), "S": set()}

    def answer(self, words, *, refuse):
        name = words[0]
        if name not in KINDS:
            return [(None, refuse)]
        if refuse:
            return [(None, True)]
        family = name.replace("UN", "").removesuffix("SUBSCRIBE")
        names = [name.encode() if isinstance(name, str) else name for name in words[1:]]
        if "UN" in name:
            count = len(names) or max(1, len(self.subscribed[family]))
            self.subscribed[family].difference_update(names or list(self.subscribed[family]))
        else:
            count = len(names)
            self.subscribed[family].update(names)
        return [(name.lower().encode(), False)] * count


@given(st.lists(st.tuples(COMMANDS, st.booleans()), max_size=30), st.data())
def test_every_answer_goes_to_its_request(commands, data):
    answers, server = PendingReplies(), Server()
    answers.start_afresh()
    replies = []
    for (words, asker), refuse in commands:
        answers.expect(words, asker)
        replies += [(asker, words, reply) for reply in server.answer(words, refuse=refuse)]
        while replies and data.draw(st.booleans()):
            read(answers, *replies.pop(0))
    for reply in replies:
        read(answers, *reply)
    with pytest.raises(InvalidResponse, match="no command asked for"):
        answers.answered(is_error=False)


def read(answers, asker, words, reply):
    word, is_error = reply
    if word is not None:
        assert answers.confirm(word)
    else:
        assert answers.answered(is_error=is_error) is asker, words


def test_a_subscription_is_not_answered_with_a_reply():
    answers = PendingReplies()
    answers.start_afresh()
    answers.expect(("SUBSCRIBE", "a"))
    with pytest.raises(InvalidResponse, match="SUBSCRIBE was answered with a reply"):
        answers.answered(is_error=False)


def test_what_was_awaited_from_one_connection_comes_from_no_other():
    answers = PendingReplies()
    answers.start_afresh()
    answers.expect(("PING",), Asker.PING)
    answers.start_afresh()
    with pytest.raises(InvalidResponse):
        answers.answered(is_error=False)


def test_an_unrequested_confirmation_answers_nothing():
    answers = PendingReplies()
    answers.start_afresh()
    answers.expect(("PING",), Asker.PING)
    assert answers.confirm(b"sunsubscribe")  # the slot of its shard has moved
    assert answers.answered(is_error=False) is Asker.PING
    assert answers.are_read


@pytest.mark.parametrize("word", [b"message", "pong", None, 5])
def test_what_is_no_confirmation(word):
    assert not PendingReplies().confirm(word)
    assert not is_confirmation(word)


def test_the_bound(monkeypatch):
    monkeypatch.setattr(module, "MAX_AWAITED", 3)
    answers = PendingReplies()
    answers.start_afresh()
    for _ in range(3):
        answers.expect(("CLIENT", "ID"))
    with pytest.raises(RuntimeError, match="3 commands of this subscriber are unanswered"):
        answers.expect(("CLIENT", "ID"))
