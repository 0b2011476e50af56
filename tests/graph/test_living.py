"""Objects by keys as long as they live, without callbacks, in which an interrupt would be lost."""

from __future__ import annotations

import weakref

from engine.chaos import ALL, take

from mlopt._graph.living import Living


class Thing:
    pass


def test_nothing_is_kept_alive() -> None:
    living: Living[Thing] = Living()
    things = {i: Thing() for i in range(1000)}
    for i, thing in things.items():
        living.put(i, thing)
    assert {*living} == {*things.values()}
    assert living.get(7) is things[7]
    del thing
    things = {7: things[7]}
    assert living.get(8) is None
    assert living.get(7) is things[7]
    living.put(1000, other := Thing())
    assert {*living} == {things[7], other}
    living.drop(7)
    living.drop(7)
    assert [*living] == [other]


def test_the_dead_are_dropped() -> None:
    living: Living[Thing] = Living()
    for i in range(10_000):
        living.put(i, Thing())
    assert len(living._held) <= 65


def test_no_callback_runs_where_an_engine_or_a_stream_dies() -> None:
    engine = ALL["loaders, foreign"]()
    take(engine, 2)
    streams = [*engine._feed.streams]
    passes = [engine._feed.sources[s] for s in streams]
    assert streams
    for held in (*streams, *passes):
        references = weakref.getweakrefs(held)
        assert references, "it is looked at whether it lives"
        assert all(r.__callback__ is None for r in references)
