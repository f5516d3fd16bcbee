"""Objects are kept once, as long as somebody holds them, and only where they are what their name says."""

from __future__ import annotations

import hashlib
import threading

from flwr.proto.message_pb2 import ObjectTree
from hypothesis import given
from hypothesis import strategies as st

from server.orchestrator.object_store import ObjectStore


def id_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tree(root: bytes, *children: bytes) -> ObjectTree:
    below = [ObjectTree(object_id=id_of(child)) for child in children]
    return ObjectTree(object_id=id_of(root), children=below)


def test_what_two_hold_is_kept_until_both_have_let_go() -> None:
    store = ObjectStore()
    assert store.hold("a", tree(b"to a", b"model")) == {id_of(b"to a"), id_of(b"model")}
    store.put_own(id_of(b"model"), b"model")
    assert store.hold("b", tree(b"to b", b"model")) == {id_of(b"to b")}, "it is here already"
    store.drop("a")
    assert store.get(id_of(b"model")) == b"model"
    store.drop("b")
    store.drop("b")
    assert store.get(id_of(b"model")) is None and len(store) == 0


def test_an_object_that_occurs_twice_in_a_tree_is_held_once() -> None:
    store = ObjectStore()
    store.hold("a", tree(b"root", b"same", b"same"))
    store.put(id_of(b"same"), b"same")
    store.drop("a")
    assert len(store) == 0 and store.get(id_of(b"same")) is None


def test_holding_another_tree_lets_go_of_the_one_before_but_keeps_what_both_have() -> None:
    store = ObjectStore()
    store.hold("a", tree(b"one", b"shared", b"old"))
    for content in (b"one", b"shared", b"old"):
        assert store.put(id_of(content), content)
    assert store.hold("a", tree(b"two", b"shared")) == {id_of(b"two")}
    assert store.get(id_of(b"shared")) == b"shared" and store.get(id_of(b"old")) is None
    assert store.held_by("a") == {id_of(b"shared"): b"shared"}


def test_an_object_that_is_not_what_its_name_says_or_that_nobody_holds_is_not_taken() -> None:
    store = ObjectStore()
    store.hold("a", tree(b"root"))
    assert not store.put(id_of(b"root"), b"something else")
    assert store.get(id_of(b"root")) is None
    assert not store.put(id_of(b"nobody's"), b"nobody's")
    assert store.put(id_of(b"root"), b"root")
    assert store.put(id_of(b"root"), b"root"), "it is here already"
    assert not store.put(id_of(b"root"), b"something else"), "its name alone is not enough"
    assert store.get(id_of(b"root")) == b"root"


def test_a_holder_has_only_its_own() -> None:
    store = ObjectStore()
    store.hold("a", tree(b"root", b"child"))
    assert store.is_held_by("a", id_of(b"child"))
    assert not store.is_held_by("b", id_of(b"child")) and store.held_by("b") == {}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["hold", "drop", "put"]),
        st.sampled_from("abc"),
        st.lists(st.sampled_from([b"w", b"x", b"y", b"z"]), min_size=1, max_size=4),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_exactly_what_is_held_is_kept(
    steps: list[tuple[str, str, list[bytes]]],
) -> None:
    store = ObjectStore()
    held: dict[str, set[bytes]] = {}
    for step, holder, contents in steps:
        if step == "hold":
            store.hold(holder, tree(*contents))
            held[holder] = set(contents)
        elif step == "drop":
            store.drop(holder)
            held.pop(holder, None)
        else:
            taken = store.put(id_of(contents[0]), contents[0])
            assert taken == any(contents[0] in one for one in held.values())
    assert len(store) == len(set().union(*held.values()))
    for holder in list(held):
        store.drop(holder)
    assert len(store) == 0 and store._contents == {}


def test_a_holder_that_lets_go_while_another_sends_leaves_nothing_behind() -> None:
    store = ObjectStore()
    contents = [str(i).encode() for i in range(300)]

    def send() -> None:
        for content in contents:
            store.put(id_of(content), content)

    store.hold("a", tree(*contents))
    sending = threading.Thread(target=send)
    sending.start()
    store.drop("a")
    sending.join()
    assert len(store) == 0 and store._contents == {}
