"""The leases of one process, as its event loop and the ledger's thread see them."""

from __future__ import annotations

from kling_async._ledger.leases import Leases


def test_a_lease_that_comes_after_somebody_began_to_wait_is_reported() -> None:
    leases = Leases()
    assert not leases.want("runblob/o3-video/1")
    leases.grant(["runblob/o3-video/1", "runblob/o3-video/2"])  # taken over from a process that died, say
    assert leases.take_granted() == ["runblob/o3-video/1"]
    assert leases.take_granted() == []
    assert leases.want("runblob/o3-video/2")  # whoever begins to wait later learns it at once


def test_a_lease_that_is_asked_for_again_is_not_reported_twice() -> None:
    leases = Leases()
    leases.grant(["runblob/o3-video/1"])
    assert leases.want("runblob/o3-video/1")
    leases.grant(["runblob/o3-video/1"])
    assert leases.take_granted() == []


def test_leases_are_reported_again_after_the_database_failed() -> None:
    leases = Leases()
    leases.want("runblob/o3-video/1")
    leases.grant(["runblob/o3-video/1"])
    leases.take_granted()  # and the database fails before anybody is notified
    leases.look_again()
    assert leases.take_granted() == ["runblob/o3-video/1"]
