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


def test_a_job_that_could_not_be_recorded_is_ours_until_it_ends() -> None:
    leases = Leases()
    leases.own_unrecorded("runblob/o3-video/1")
    assert leases.want("runblob/o3-video/1")
    leases.renewed_as(1, at=0.0, others=False)
    leases.renewed_as(2, at=0.0, others=False)  # the row has expired, and nobody else knows of the job
    assert leases.take_lost() == []
    leases.unwant("runblob/o3-video/1", ended=False)
    assert leases.want("runblob/o3-video/1")
    leases.unwant("runblob/o3-video/1", ended=True)
    assert not leases.want("runblob/o3-video/1")


def test_a_job_that_is_recorded_after_all_has_a_lease_that_can_expire() -> None:
    leases = Leases()
    leases.renewed_as(1, at=0.0, others=False)
    leases.own_unrecorded("runblob/o3-video/1")
    assert leases.want("runblob/o3-video/1")
    leases.grant(["runblob/o3-video/1"])
    leases.renewed_as(2, at=0.0, others=False)
    assert leases.take_lost() == ["runblob/o3-video/1"]
    assert not leases.want("runblob/o3-video/1")


def test_who_knows_of_others_looks_more_often_what_they_have_written() -> None:
    leases = Leases()
    leases.want("runblob/o3-video/1")
    alone = leases.patience()
    leases.renewed_as(1, at=0.0, others=True)
    among_others = leases.patience()
    assert alone is not None
    assert among_others is not None
    assert among_others <= alone / 4
