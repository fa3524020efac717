"""The soak's checker on handmade histories: good ones, and ones with each kind of violation."""

import random
import re
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from soak.checker import Checker, Violation
from soak.history import OUTSIDE, Change, History, load_changes, save_changes
from soak.log import KEY_SHIFT, UNENDED, Kind, Log, Outcome, Record, merged, records
from soak.predicted import LOST, NONCE_SHIFT, OUTLIVES, RETRY, SLOW, WITHIN, Circumstances, Life, Predictions
from soak.report import Report, Run, earliest_beginnings

# Nonce 10 creates row 7 as version 1 with slug 50 in team 3. Versions and transactions count up.
CREATED = Change(1, 7, 1, 10, 50, 3)
WRITTEN = Change(2, 7, 2, 20, 50, 3)
MOVED = Change(3, 7, 3, 30, 51, 4)
DELETED = Change(4, 7, 0, 0, 51, 4)
ALL = (CREATED, WRITTEN, MOVED, DELETED)
NOTHING = (0, 0)
ONE, TWO, THREE = (1, 10), (2, 20), (3, 30)


def by_pk(start: int, end: int, seen: tuple[int, int], pk: int = 7) -> Record:
    return Record(Kind.BY_PK, start, end, 0, [pk << KEY_SHIFT | seen[0], seen[1]])


def by_slug(start: int, end: int, slug: int, seen: tuple[int, int]) -> Record:
    return Record(Kind.BY_SLUG, start, end, 0, [slug << KEY_SHIFT | seen[0], seen[1]])


def by_team(start: int, end: int, team: int, *seen: tuple[int, int]) -> Record:
    return Record(Kind.BY_TEAM, start, end, team, [word for each in seen for word in each])


def wrote(
    start: int,
    end: int,
    nonce: int,
    *,
    committing: int | None = None,
    outcome: Outcome = Outcome.ACKNOWLEDGED,
    source: int = 1,
    listed: Sequence[int] = (),
) -> Record:
    words = [outcome, start if committing is None else committing, *listed]
    return Record(Kind.WRITE, start, end, nonce, words, source)


def deleted(start: int, end: int, *pks: int) -> Record:
    return Record(Kind.DELETE, start, end, 0, [Outcome.ACKNOWLEDGED, start, *pks], 1)


def check(changes: Iterable[Change], *log: Record, rest_from: int = 1 << 62, allowance: int = 0) -> Checker:
    commits = {record.subject: record.words[1] for record in log if record.kind == Kind.WRITE}
    allowances = dict.fromkeys((Kind.BY_PK, Kind.BY_SLUG, Kind.BY_TEAM), allowance)
    checker = Checker(History(changes, commits), rest_from=rest_from, allowances=allowances)
    for record in sorted(log, key=lambda record: record.end):
        checker.feed(record)
    return checker


def alarm(start: int, end: int, *, unchanged: bool = True) -> Record:
    return Record(Kind.ALARM, start, end, 7, [Kind.BY_PK, int(unchanged)])


def alarms(*log: Record) -> tuple[int, int, int, int]:
    """Returns the numbers of true, replaced and false alarms, and of violations."""
    run = Run("aiomodelcache", 1, 1, 0, 0, 1, 1 << 62, Circumstances(), {})
    found = Report(run, check(ALL, *log), len(ALL), [], Counter())
    return found.true_alarms, found.replaced_alarms, found.false_alarms, found.violations


def test_an_alarm_is_true_if_the_read_that_judges_it_is_stale() -> None:
    written = wrote(1, 10, 20)
    assert alarms(written, by_pk(11, 12, ONE), alarm(11, 13)) == (1, 0, 0, 1)
    assert alarms(written, by_pk(11, 12, TWO), alarm(11, 13)) == (0, 0, 1, 1)
    assert alarms(written, by_pk(11, 12, TWO), alarm(11, 13, unchanged=False)) == (0, 1, 0, 0)
    assert alarms(written, by_pk(11, 12, ONE), alarm(14, 15)) == (0, 0, 1, 2)


def test_an_alarm_about_an_absence_is_true_if_a_later_read_still_finds_the_row() -> None:
    """Alone, the absence could be that of the row after its delete, whose time is not known."""
    written, earlier, judging = wrote(1, 10, 30), by_pk(11, 12, NOTHING), [by_pk(13, 14, NOTHING), alarm(13, 15)]
    assert alarms(written, earlier, *judging, by_pk(16, 17, THREE)) == (1, 0, 0, 1)
    assert alarms(written, earlier, *judging) == (0, 0, 1, 1)
    assert alarms(written, earlier, *judging, by_slug(16, 17, 50, NOTHING)) == (0, 0, 1, 1)


def violations(*args: Record, changes: Sequence[Change] = ALL, rest_from: int = 1 << 62) -> list[Violation]:
    return [finding.what for finding in check(changes, *args, rest_from=rest_from).findings]


# Allowed reads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [ONE, TWO])
def test_a_read_concurrent_with_a_write_may_see_either_version(seen: tuple[int, int]) -> None:
    assert violations(wrote(100, 200, 20), by_pk(150, 160, seen), by_pk(190, 300, seen)) == []


def test_a_read_that_starts_at_the_acknowledgement_is_concurrent_with_the_write() -> None:
    assert violations(wrote(100, 200, 20), by_pk(200, 300, ONE)) == []


def test_a_read_after_an_acknowledged_write_sees_that_or_a_later_version() -> None:
    assert violations(wrote(100, 200, 20), by_pk(201, 300, TWO), by_pk(301, 400, THREE), by_pk(401, 500, NOTHING)) == []


def test_a_row_may_be_absent_until_a_write_is_acknowledged() -> None:
    assert violations(by_pk(1, 2, NOTHING), by_slug(3, 4, 50, NOTHING), by_team(5, 6, 3)) == []


def test_a_row_that_never_existed_may_be_absent() -> None:
    assert violations(by_pk(1, 2, NOTHING, pk=8), by_slug(1, 2, 99, NOTHING), by_team(1, 2, 99), rest_from=0) == []


# Violations ---------------------------------------------------------------------------------


def test_a_read_older_than_an_acknowledged_write_is_stale() -> None:
    assert violations(wrote(100, 200, 20), by_pk(201, 300, ONE)) == [Violation.STALE]


def test_an_absence_after_an_acknowledged_create_is_stale() -> None:
    assert violations(wrote(1, 2, 10), by_pk(3, 4, NOTHING), changes=[CREATED]) == [Violation.STALE]
    assert violations(wrote(1, 2, 10), by_slug(3, 4, 50, NOTHING), changes=[CREATED]) == [Violation.STALE]
    assert violations(wrote(1, 2, 10), by_team(3, 4, 3), changes=[CREATED]) == [Violation.STALE]


def test_a_row_after_its_acknowledged_delete_is_stale() -> None:
    done = wrote(1, 2, 30), deleted(5, 6, 7)
    assert violations(*done, by_pk(7, 8, THREE)) == [Violation.STALE]
    assert violations(*done, by_slug(7, 8, 51, THREE)) == [Violation.STALE]
    assert violations(*done, by_team(7, 8, 4, THREE)) == [Violation.STALE]
    assert violations(*done, by_pk(7, 8, NOTHING), by_slug(7, 8, 51, NOTHING), by_team(7, 8, 4)) == []


def test_a_row_may_be_present_after_a_delete_and_another_create() -> None:
    back = Change(5, 7, 4, 40, 51, 4)
    done = wrote(1, 2, 30), deleted(5, 6, 7)
    assert violations(*done, by_pk(7, 8, NOTHING), changes=[*ALL, back]) == []
    assert violations(*done, by_pk(7, 8, (4, 40)), changes=[*ALL, back]) == []
    assert violations(*done, wrote(9, 10, 40), by_pk(11, 12, NOTHING), changes=[*ALL, back]) == [Violation.STALE]


def test_a_read_older_than_an_earlier_read_goes_backwards() -> None:
    assert violations(by_pk(1, 2, TWO), by_pk(3, 4, ONE)) == [Violation.BACKWARDS]
    assert violations(by_pk(1, 5, TWO), by_pk(3, 9, ONE)) == []  # concurrent reads
    assert violations(by_slug(1, 2, 51, THREE), by_pk(3, 4, TWO)) == [Violation.BACKWARDS]
    assert violations(by_team(1, 2, 4, THREE), by_pk(3, 4, TWO)) == [Violation.BACKWARDS]


def test_an_absence_after_an_earlier_find_goes_backwards() -> None:
    still = [CREATED, WRITTEN, MOVED]
    assert violations(by_pk(1, 2, ONE), by_pk(3, 4, NOTHING), changes=still) == [Violation.BACKWARDS]
    assert violations(by_slug(1, 2, 51, THREE), by_slug(3, 4, 51, NOTHING), changes=still) == [Violation.BACKWARDS]
    assert violations(by_team(1, 2, 4, THREE), by_team(3, 4, 4), changes=still) == [Violation.BACKWARDS]
    assert violations(by_team(1, 2, 4, THREE), by_team(3, 4, 4)) == []  # the row may be deleted by then


def test_a_row_found_after_an_earlier_absence_goes_backwards() -> None:
    gone = wrote(1, 2, 30), by_pk(3, 4, NOTHING)  # so the delete was committed
    assert violations(*gone, by_pk(5, 6, THREE)) == [Violation.BACKWARDS]


def test_a_row_older_than_a_list_without_it_goes_backwards() -> None:
    assert violations(wrote(1, 2, 10), by_team(3, 4, 3), by_pk(5, 6, TWO)) == [Violation.BACKWARDS]


def test_a_late_acknowledgement_does_not_undo_a_later_version() -> None:
    assert violations(wrote(1, 2, 30), wrote(1, 5, 20), by_pk(6, 7, TWO)) == [Violation.STALE]


def test_a_version_that_was_never_committed_is_a_violation() -> None:
    assert violations(by_pk(1, 2, (9, 90))) == [Violation.UNCOMMITTED]
    assert violations(by_slug(1, 2, 50, (9, 90))) == [Violation.UNCOMMITTED]
    assert violations(by_team(1, 2, 3, (9, 90))) == [Violation.UNCOMMITTED]


def test_a_mix_of_two_versions_or_rows_is_a_violation() -> None:
    assert violations(by_pk(1, 2, (2, 10))) == [Violation.UNCOMMITTED]
    assert violations(by_pk(1, 2, TWO, pk=8)) == [Violation.UNCOMMITTED]


def test_a_read_before_the_commit_is_a_violation() -> None:
    assert violations(by_pk(100, 110, TWO), wrote(50, 200, 20, committing=111)) == [Violation.UNCOMMITTED]
    assert violations(by_pk(100, 111, TWO), wrote(50, 200, 20, committing=111)) == []


def test_an_absence_is_not_explained_by_a_later_delete() -> None:
    later = wrote(1, 2, 20), wrote(100, 110, 30)
    assert violations(*later, by_team(3, 99, 3)) == [Violation.STALE]
    assert violations(*later, by_team(3, 100, 3)) == []
    back = [
        *ALL,
        Change(5, 7, 4, 40, 51, 4),
    ]  # created again by 40; the time of the delete before it is only known to be after 30
    assert violations(*later, by_pk(3, 99, NOTHING), changes=back) == [Violation.STALE]
    assert violations(*later, by_pk(3, 100, NOTHING), changes=back) == []


def test_a_version_inside_a_transaction_is_a_violation() -> None:
    changes = [CREATED, Change(2, 7, 2, 20, 51, 4), Change(2, 7, 3, 20, 51, 3)]
    assert violations(by_pk(1, 2, (2, 20)), changes=changes) == [Violation.UNCOMMITTED]
    assert violations(by_pk(1, 2, (3, 20)), wrote(0, 3, 20), by_pk(4, 5, (3, 20)), changes=changes) == []
    back = [CREATED, Change(2, 7, 2, 20, 50, 4), Change(2, 7, 3, 20, 50, 3)]
    assert violations(wrote(0, 1, 10), by_team(2, 3, 3), changes=back) == [Violation.STALE]


def test_a_version_found_under_the_key_of_another_version_is_a_violation() -> None:
    assert violations(by_slug(1, 2, 50, THREE)) == [Violation.OLD_KEY]
    assert violations(by_team(1, 2, 3, THREE)) == [Violation.OLD_KEY]
    assert violations(by_slug(1, 2, 51, THREE), by_team(1, 2, 4, THREE)) == []
    assert violations(wrote(1, 2, 30), by_slug(3, 4, 50, TWO)) == [Violation.STALE]  # the old version under its own key


def test_a_slug_that_moved_to_another_row_is_stale_for_the_first() -> None:
    taken = Change(9, 8, 9, 90, 50, 3)
    changes = [CREATED, WRITTEN, MOVED, taken]
    assert violations(wrote(1, 2, 90), by_slug(3, 4, 50, (9, 90)), changes=changes) == []
    assert violations(wrote(1, 2, 90), by_slug(3, 4, 50, NOTHING), changes=changes) == [Violation.STALE]
    # The row's own timeline allows the read, since its move was not acknowledged. The slug's timeline does not.
    assert violations(wrote(1, 2, 90), by_slug(3, 4, 50, TWO), changes=changes) == [Violation.STALE]


def test_slugs_swapped_in_one_transaction_follow_the_commit() -> None:
    changes = [
        Change(1, 1, 1, 11, 50, 3),
        Change(1, 2, 2, 12, 51, 3),
        Change(2, 1, 3, 20, 52, 3),
        Change(2, 2, 4, 20, 50, 3),
        Change(2, 1, 5, 20, 51, 3),
    ]
    read = by_slug(3, 4, 50, (4, 20)), by_slug(5, 6, 51, (5, 20)), by_slug(7, 8, 52, NOTHING)
    assert violations(wrote(1, 2, 20), *read, changes=changes, rest_from=3) == []
    assert violations(wrote(1, 2, 20), by_slug(3, 4, 51, (2, 12)), changes=changes) == [Violation.STALE]


def test_a_list_without_a_row_that_returned_to_it_is_stale() -> None:
    changes = [CREATED, Change(2, 7, 2, 20, 50, 4), Change(3, 7, 3, 30, 50, 3)]
    assert violations(wrote(1, 2, 10), by_team(3, 4, 3), changes=changes) == []  # the row was in another list meanwhile
    assert violations(wrote(1, 2, 30), by_team(3, 4, 3), changes=changes) == [Violation.STALE]
    assert violations(by_pk(1, 2, (3, 30)), by_team(3, 4, 3), changes=changes) == [Violation.BACKWARDS]


def test_at_rest_only_the_final_state_is_allowed() -> None:
    assert violations(by_pk(1, 2, NOTHING), by_slug(1, 2, 51, NOTHING), by_team(1, 2, 4), rest_from=1) == []
    assert violations(by_pk(1, 2, THREE), rest_from=1) == [Violation.AT_REST]
    assert violations(by_slug(1, 2, 51, THREE), rest_from=1) == [Violation.AT_REST]
    assert violations(by_team(1, 2, 4, THREE), rest_from=1) == [Violation.AT_REST]
    assert violations(by_pk(1, 2, THREE), rest_from=2) == []
    still = [CREATED, WRITTEN]
    assert violations(by_pk(1, 2, NOTHING), changes=still, rest_from=1) == [Violation.AT_REST]
    assert violations(by_slug(1, 2, 50, NOTHING), changes=still, rest_from=1) == [Violation.AT_REST]
    assert violations(by_team(1, 2, 3), changes=still, rest_from=1) == [Violation.AT_REST]


def test_an_allowance_ends_after_its_time() -> None:
    log = wrote(100, 200, 20), by_pk(1_150, 1_160, ONE)
    assert check(ALL, *log, allowance=1_000).findings == []
    assert [finding.what for finding in check(ALL, *log, allowance=900).findings] == [Violation.STALE]


@pytest.mark.parametrize(
    "old",
    [
        by_slug(1_150, 1_160, 50, TWO),
        by_slug(1_150, 1_160, 51, NOTHING),
        by_team(1_150, 1_160, 3, TWO),
        by_team(1_150, 1_160, 4),
        by_pk(1_150, 1_160, NOTHING),
    ],
)
def test_an_allowance_covers_slugs_lists_and_absences(old: Record) -> None:
    changes = [CREATED, WRITTEN, MOVED]
    # Slug 50 and team 3 are old from the acknowledgement of 30 on, in the last case from that of 10 on.
    log = wrote(90, 91, 20) if old.kind != Kind.BY_PK else wrote(200, 201, 10), wrote(100, 200, 30)
    assert check(changes, *log, old, allowance=1_000).findings == []
    assert {finding.what for finding in check(changes, *log, old, allowance=900).findings} == {Violation.STALE}


def test_an_allowance_covers_no_uncommitted_version_and_no_other_key() -> None:
    log = by_pk(1, 2, (9, 90)), by_slug(1, 2, 50, THREE), by_team(1, 2, 3, THREE)
    found = [finding.what for finding in check(ALL, *log, allowance=1_000).findings]
    assert found == [Violation.UNCOMMITTED, Violation.OLD_KEY, Violation.OLD_KEY]


def snapshot(start: int, end: int, *seen: tuple[int, int]) -> Record:
    return Record(Kind.SNAPSHOT, start, end, 0, [word for each in seen for word in by_pk(0, 0, each).words])


def test_a_snapshot_sees_one_state_during_its_transaction() -> None:
    later = wrote(100, 200, 20), wrote(250, 300, 30)
    assert violations(*later, snapshot(90, 400, ONE, ONE)) == []
    assert violations(*later, snapshot(90, 400, ONE, TWO)) == [Violation.UNREPEATABLE]
    assert violations(*later, snapshot(90, 400, TWO, NOTHING)) == [Violation.UNREPEATABLE]
    assert check(ALL, *later, snapshot(90, 400, TWO, TWO)).snapshots == 1


PAIR = (
    CREATED,
    Change(2, 8, 2, 11, 60, 3),
    Change(3, 7, 3, 20, 50, 3),
    Change(3, 8, 4, 20, 60, 3),
    Change(4, 8, 5, 30, 60, 3),
    Change(5, 8, 6, 40, 60, 3),
    Change(5, 7, 7, 40, 50, 3),
)
"""Rows 7 and 8: created by 10 and 11, written together by 20, row 8 alone by 30, and together by 40."""


def together(start: int, end: int, seven: tuple[int, int], eight: tuple[int, int]) -> Record:
    words = [*by_pk(0, 0, seven).words, *by_pk(0, 0, eight, pk=8).words]
    return Record(Kind.TOGETHER, start, end, 0, words)


@pytest.mark.parametrize(
    ("seven", "eight", "torn"),
    [
        ((1, 10), (2, 11), False),
        ((3, 20), (4, 20), False),
        ((3, 20), (5, 30), False),
        ((7, 40), (6, 40), False),
        ((1, 10), NOTHING, False),
        ((1, 10), (4, 20), True),
        ((3, 20), (2, 11), True),
        ((3, 20), (6, 40), True),
        ((7, 40), (5, 30), True),
    ],
)
def test_rows_of_one_moment_have_all_or_nothing_of_a_transaction(
    seven: tuple[int, int], eight: tuple[int, int], torn: bool
) -> None:
    log = wrote(1, 900, 20), wrote(1, 900, 30), wrote(1, 900, 40), together(10, 800, seven, eight)
    found = violations(*sorted(log, key=lambda record: record.end), changes=PAIR)
    assert found == ([Violation.TORN] if torn else [])


PAGE = (
    CREATED,
    Change(2, 9, 2, 11, 60, 3),
    Change(3, 30, 3, 12, 70, 3),
    Change(4, 30, 4, 20, 70, 3),
    Change(5, 7, 5, 30, 50, 3),
    Change(5, 9, 6, 30, 60, 3),
    Change(4, 9, 7, 20, 60, 3),
    Change(6, 9, 8, 40, 60, 3),
)
"""Rows 7, 9 and 30, no neighbours: 20 writes row 30 and, after 30 has written 7 and 9, row 9. 40 writes row 9 alone."""


@pytest.mark.parametrize(
    ("versions", "torn"),
    [
        ((1, 2, 3), []),
        ((1, 2, 4), [9]),
        ((1, 6, 3), [7]),
        ((5, 2, 3), [9]),
        ((5, 6, 3), []),
        ((5, 6, 4), [9]),
        ((5, 7, 3), [30]),
        ((5, 7, 4), []),
        ((5, 8, 3), [30]),
        ((1, 8, 3), [7, 30]),
        ((1, 7, 4), [7]),
        ((5, 8, 4), []),
    ],
)
def test_a_page_of_one_moment_has_all_or_nothing_of_each_transaction(
    versions: tuple[int, ...], torn: list[int]
) -> None:
    nonces = {change.version: (change.pk, change.nonce) for change in PAGE}
    words = [word for each in versions for word in by_pk(0, 0, (each, nonces[each][1]), pk=nonces[each][0]).words]
    page = Record(Kind.TOGETHER, 10, 800, 3, words)
    log = page, wrote(1, 900, 20), wrote(1, 900, 30), wrote(1, 900, 40)
    checker = check(PAGE, *log)
    assert sorted(finding.key for finding in checker.findings) == torn
    assert {finding.what for finding in checker.findings} <= {Violation.TORN}
    assert (checker.pages, checker.rows_on_pages, checker.reads[Kind.TOGETHER]) == (1, 3, 3)


def test_an_acknowledged_write_that_was_never_committed_is_lost() -> None:
    assert violations(wrote(1, 2, 77, outcome=Outcome.CHANGED)) == [Violation.LOST]
    for outcome in (Outcome.REFUSED, Outcome.UNKNOWN):
        assert violations(wrote(1, 2, 77, outcome=outcome)) == []
    assert violations(wrote(1, 2, 77)) == [], "it may have found no row"
    assert violations(wrote(1, 2, 20, outcome=Outcome.CHANGED)) == []
    assert violations(wrote(1, 2, 20, outcome=Outcome.CHANGED), by_pk(3, 4, ONE)) == [Violation.STALE]


def test_a_write_of_a_transaction_whose_last_write_of_the_row_was_another_is_not_lost() -> None:
    changes = [CREATED, Change(2, 7, 2, 20, 50, 3), Change(2, 7, 0, 0, 50, 3)]
    assert violations(wrote(1, 2, 20, outcome=Outcome.CHANGED), changes=changes) == []


def test_an_acknowledged_delete_that_was_never_committed_is_lost() -> None:
    still = [CREATED, WRITTEN]
    assert violations(wrote(1, 2, 10), deleted(3, 4, 7), changes=still) == [Violation.LOST]
    assert violations(wrote(1, 2, 10), deleted(3, 4, 7)) == []
    back = [*ALL, Change(5, 7, 4, 40, 51, 4)]
    assert violations(wrote(1, 2, 40), deleted(3, 4, 7), changes=back) == [Violation.LOST], (
        "it was created again before"
    )
    assert violations(wrote(1, 2, 10), wrote(5, 6, 30), deleted(3, 4, 7)) == [Violation.LOST], "it was deleted later"


def test_a_lost_write_is_never_explained() -> None:
    checker = check(THEIRS, wrote(100, 200, NONCE + 1, outcome=Outcome.CHANGED, source=WRITER), held(0, 300))
    [finding] = checker.findings
    assert finding.what is Violation.LOST
    assert Predictions(checker, Circumstances(losses=[(0, 999)], lives={WRITER: Life(0)})).explain(finding) is None


# Long histories --------------------------------------------------------------------------


def test_a_linearizable_history_is_good_until_a_read_is_made_older() -> None:
    chance = random.Random(5)
    changes, log, at, version = [CREATED], [], 10, 1
    for nonce in range(100, 300):
        version += 1
        changes.append(Change(nonce, 7, version, nonce, 50, 3))
        log.append(wrote(at, at + 10, nonce, committing=at + 5))
        log += [by_pk(at + 11, at + 12 + chance.randrange(8), (version, nonce)) for _ in range(3)]
        log.append(by_pk(at + 1, at + 8, (version - 1, changes[-2].nonce)))
        at += 20
    assert check(changes, *log).findings == []
    for record in chance.sample([each for each in log if each.kind == Kind.BY_PK and each.start % 20 == 1], 50):
        index = log.index(record)
        older = changes[(record.words[0] & 0xFFFF) - 2]
        broken = [*log[:index], by_pk(record.start, record.end, (older.version, older.nonce)), *log[index + 1 :]]
        assert check(changes, *broken).findings


@pytest.mark.slow(because="checks 20,000 records")
def test_the_checker_takes_linear_time() -> None:
    def seconds(size: int) -> float:
        changes = [Change(n, 7, n, n, 50, 3) for n in range(1, size)]
        log = [
            record
            for n in range(1, size)
            for record in (wrote(n * 10, n * 10 + 1, n), by_pk(n * 10 + 2, n * 10 + 3, (n, n)))
        ]
        checker = Checker(History(changes))
        begin = time.process_time()
        for record in log:
            checker.feed(record)
        assert not checker.findings
        return time.process_time() - begin

    assert seconds(20_000) < 30 * max(seconds(2_000), 0.001)


# Predicted violations --------------------------------------------------------------------------------------

WRITER = 5
NONCE = WRITER << NONCE_SHIFT | 1
THEIRS = [CREATED, Change(2, 7, 2, NONCE, 50, 3)]


def reasons(circumstances: Circumstances, *log: Record) -> list[str | None]:
    checker = check(THEIRS, *log)
    return list(map(Predictions(checker, circumstances).explain, checker.findings))


def missed_write(read_at: int = 300, outcome: Outcome = Outcome.ACKNOWLEDGED) -> list[Record]:
    return [
        by_pk(190, 195, (2, NONCE)),
        wrote(100, 200, NONCE, outcome=outcome, source=WRITER),
        by_pk(read_at, read_at + 5, ONE),
    ]


def held(start: int, end: int, subject: int = 0) -> Record:
    return Record(Kind.HELD, start, end, subject, [], WRITER)


def test_a_violation_without_a_fault_is_not_explained() -> None:
    assert reasons(Circumstances(lives={WRITER: Life(0)}), *missed_write()) == [None]


def test_an_undelivered_invalidation_explains_stale_reads_until_it_is_delivered() -> None:
    retry = Circumstances(lives={WRITER: Life(0, on_write_error="retry")})
    refuse = Circumstances(lives={WRITER: Life(0, on_write_error="raise")})
    assert reasons(retry, *missed_write(), held(150, 400)) == [RETRY]
    assert reasons(retry, *missed_write(read_at=401), held(150, 400)) == [None]
    assert reasons(retry, *missed_write(), held(201, 400)) == [None]
    assert reasons(retry, *missed_write(), held(150, 151, UNENDED)) == [RETRY]
    assert reasons(retry, *missed_write(read_at=401), held(150, 151, UNENDED), held(150, 400)) == [None]
    assert reasons(refuse, *missed_write(), held(150, 400)) == [None]


def test_a_lost_intent_explains_stale_reads_only_if_the_write_was_not_cleared() -> None:
    lost = Circumstances(losses=[(120, 130)], lives={WRITER: Life(0)})
    assert reasons(lost, *missed_write()) == [None]  # the clear deleted entries that were filled meanwhile
    assert reasons(lost, *missed_write(outcome=Outcome.UNKNOWN)) == [LOST]
    assert reasons(Circumstances(losses=[(201, 210)]), *missed_write(outcome=Outcome.UNKNOWN)) == [None]


def test_an_intent_may_be_lost_until_the_commit_of_a_write_that_was_given_up() -> None:
    """A cancelled writer waits for its COMMIT for a limited time. The database may commit later."""
    log = (
        wrote(100, 200, NONCE, outcome=Outcome.UNKNOWN, source=WRITER),
        by_pk(240, 250, (2, NONCE)),
        by_pk(300, 305, ONE),
    )
    assert reasons(Circumstances(losses=[(220, 230)]), *log) == [LOST]
    assert reasons(Circumstances(losses=[(251, 260)]), *log) == [None]  # it was committed before it was seen
    acknowledged = wrote(100, 200, NONCE, source=WRITER), *log[1:]
    assert reasons(Circumstances(losses=[(220, 230)]), *acknowledged) == [None]


def test_the_unlogged_last_write_of_a_killed_process_may_lose_its_intent() -> None:
    log = by_pk(190, 195, (2, NONCE)), by_pk(300, 305, ONE)
    lives = {WRITER: Life(0, ended=180, killed=True)}
    assert reasons(Circumstances(losses=[(120, 130)], lives=lives), *log) == [LOST]
    assert reasons(Circumstances(losses=[(180 + OUTLIVES + 1, 180 + OUTLIVES + 2)], lives=lives), *log) == [None]
    assert reasons(Circumstances(losses=[(120, 130)], lives={WRITER: Life(0)}), *log) == [None]


def test_a_write_slower_than_intent_ttl_explains_stale_reads() -> None:
    assert reasons(Circumstances(intent_ttl=99), *missed_write()) == [SLOW]
    assert reasons(Circumstances(intent_ttl=100), *missed_write()) == [None]


def test_each_missed_write_needs_an_explanation_of_its_own() -> None:
    other = Change(3, 7, 3, 77, 50, 3)
    checker = check([*THEIRS, other], *missed_write(), wrote(210, 220, 77), held(150, 400))
    [finding] = checker.findings
    assert Predictions(checker, Circumstances(lives={WRITER: Life(0)})).explain(finding) is None


def test_a_list_without_a_row_depends_only_on_writes_that_invalidate_lists() -> None:
    moved = [CREATED, Change(2, 7, 2, NONCE, 50, 4), Change(3, 7, 3, 77, 50, 4)]
    retry = Circumstances(lives={WRITER: Life(0, on_write_error="retry")})

    def explanations(*seen: tuple[int, int], listed: Sequence[int] = ()) -> list[str | None]:
        later = wrote(210, 220, 77, listed=listed)
        checker = check(moved, *missed_write()[1:2], held(150, 400), later, by_team(300, 305, 4, *seen))
        return list(map(Predictions(checker, retry).explain, checker.findings))

    assert explanations() == [RETRY], "the later write invalidated no list"
    assert explanations(listed=[8]) == [RETRY], "the later write invalidated lists of another row"
    assert explanations(listed=[7]) == [None], "the later write should have invalidated the old list"
    assert explanations((2, NONCE)) == [None], "the row itself depends on both writes"
    assert explanations((3, 77)) == []


def test_a_late_absence_is_not_a_violation_of_readers_that_saw_the_row() -> None:
    made = [CREATED, Change(2, 7, 0, 0, 50, 3), Change(3, 7, 3, NONCE, 50, 3), Change(4, 7, 0, 0, 50, 3)]
    log = wrote(100, 200, NONCE, source=WRITER), by_pk(300, 305, NOTHING), by_pk(310, 315, (3, NONCE))
    retry = Circumstances(lives={WRITER: Life(0, on_write_error="retry")})

    def explanations(*more: Record) -> list[str | None]:
        checker = check(made, *log, *more)
        return [Predictions(checker, retry).explain(each) for each in checker.findings]

    assert explanations(held(150, 400)) == [RETRY], "of two contradicting reads, the first was late"
    assert explanations() == [None]
    assert explanations(held(150, 400), deleted(306, 308, 7)) == [None], "the delete is logged"


def test_an_unlogged_write_cannot_be_seen_before_earlier_writes_began() -> None:
    begun = {NONCE: (100, 150), NONCE + 4: (500, 550), (WRITER + 1) << NONCE_SHIFT | 1: (9, 10)}
    earliest = earliest_beginnings([NONCE + 1, NONCE + 5, WRITER << NONCE_SHIFT, 3], begun)
    assert earliest == {NONCE + 1: 100, NONCE + 5: 500}
    gone = [CREATED, Change(2, 7, 0, 0, 50, 3), Change(3, 7, 3, NONCE + 5, 50, 3)]
    checker = Checker(History(gone, {10: 1} | earliest))
    checker.feed(by_pk(300, 400, (3, NONCE + 5)))
    checker.feed(by_pk(500, 600, (3, NONCE + 5)))
    assert [(finding.what, finding.end) for finding in checker.findings] == [(Violation.UNCOMMITTED, 400)]


def test_the_intent_of_an_unlogged_write_may_be_lost_from_its_earliest_begin_on() -> None:
    log = by_pk(290, 295, (2, NONCE + 1)), by_pk(300, 305, ONE), wrote(100, 250, NONCE, source=WRITER)
    checker = check([CREATED, Change(2, 7, 2, NONCE + 1, 50, 3)], *log)
    killed = Circumstances(losses=[(120, 130)], lives={WRITER: Life(0, ended=280, killed=True)})
    [finding] = checker.findings
    assert Predictions(checker, killed, {NONCE + 1: 110}).explain(finding) == LOST
    assert Predictions(checker, killed, {NONCE + 1: 131}).explain(finding) is None


def test_an_uncommitted_read_is_never_explained() -> None:
    checker = check(THEIRS, by_pk(1, 2, (9, 90)), held(0, 3))
    circumstances = Circumstances(losses=[(0, 9)], lives={WRITER: Life(0)})
    assert Predictions(checker, circumstances).explain(checker.findings[0]) is None


@pytest.mark.parametrize(("why", "words"), [(LOST, "An intent that Redis lost"), (SLOW, "A COMMIT"), (RETRY, "retry")])
def test_every_predicted_violation_is_documented(why: str, words: str) -> None:
    document = (Path(__file__).parents[2] / "docs/consistency.md").read_text("utf-8")
    number = why.removesuffix(")")[-1]
    assert re.search(rf"^{number}\. \*\*.*{words}", document, re.MULTILINE)


# Log files ---------------------------------------------------------------------------------------------------


def test_a_log_is_read_back_without_a_torn_end(tmp_path: Path) -> None:
    log = Log(tmp_path / "1.log")
    log.add(Kind.BY_PK, 5, 0, [7 << KEY_SHIFT | 1, 10])
    log.add(Kind.WRITE, 6, 1 << 40, (Outcome.UNKNOWN, 6))
    log.close()
    first, second = records(tmp_path / "1.log", 4)
    assert (first.kind, first.start, first.words, first.source) == (
        Kind.BY_PK,
        5,
        array("Q", [7 << KEY_SHIFT | 1, 10]),
        4,
    )
    assert (second.subject, *second.words) == (1 << 40, Outcome.UNKNOWN, 6)
    assert first.start < first.end <= second.end
    whole = (tmp_path / "1.log").read_bytes()
    for size in (len(whole) - 1, len(whole) - 8, len(whole) - 40):
        (tmp_path / "1.log").write_bytes(whole[:size])
        assert len(list(records(tmp_path / "1.log"))) == 1


def test_several_logs_merge_into_one_sequence(tmp_path: Path) -> None:
    for number in range(2):
        log = Log(tmp_path / f"{number}.log")
        for start in range(3):
            log.add(Kind.BY_TEAM, start)
        log.close()
    read = list(merged((number, tmp_path / f"{number}.log") for number in range(2)))
    assert [record.end for record in read] == sorted(record.end for record in read)
    assert {record.source for record in read} == {0, 1}


def test_a_history_can_be_saved_and_loaded(tmp_path: Path) -> None:
    save_changes(tmp_path / "history", ALL)
    assert tuple(load_changes(tmp_path / "history")) == ALL


# Lag of near caches ---------------------------------------------------------------------------------------


def lagging(lag: int, *log: Record) -> Checker:
    checker = Checker(History(ALL, {}), lag=lag)
    for record in log:
        checker.feed(record)
    return checker


def of(source: int, read: Record) -> Record:
    return read._replace(source=source)


def test_reads_may_lag_behind_writes_of_other_processes() -> None:
    checker = lagging(100, wrote(100, 200, 20, source=2), of(1, by_pk(250, 260, ONE)), of(1, by_pk(301, 302, ONE)))
    assert [finding.what for finding in checker.findings] == [Violation.STALE]
    assert [lag for _, lag in checker.late] == [50]


def test_reads_may_not_lag_behind_writes_of_the_same_process() -> None:
    checker = lagging(100, wrote(100, 200, 20, source=1), of(1, by_pk(250, 260, ONE)))
    assert [finding.what for finding in checker.findings] == [Violation.STALE]
    assert lagging(100, wrote(100, 200, 20, source=1), of(2, by_pk(250, 260, ONE))).findings == []


def test_reads_of_the_same_process_may_not_go_backwards() -> None:
    checker = lagging(100, of(1, by_pk(10, 20, TWO)), of(2, by_pk(30, 40, ONE)), of(1, by_pk(50, 60, ONE)))
    assert [(finding.what, finding.source) for finding in checker.findings] == [(Violation.BACKWARDS, 1)]


# Writes of other programs ------------------------------------------------------------------------------------

# Another program updates row 7 and moves it, the library updates it, and another program deletes it.
TOUCHED_OUTSIDE = Change(2, 7, 2, OUTSIDE + 2, 50, 3)
MOVED_OUTSIDE = Change(3, 7, 3, OUTSIDE + 3, 51, 4)
SAVED = Change(4, 7, 4, 40, 51, 4)
DELETED_OUTSIDE = Change(5, 7, 0, OUTSIDE + 5, 51, 4)
MIXED = (CREATED, TOUCHED_OUTSIDE, MOVED_OUTSIDE, SAVED, DELETED_OUTSIDE)
TOUCHED, ELSEWHERE, SAVED_ROW = (2, OUTSIDE + 2), (3, OUTSIDE + 3), (4, 40)


def bounded(*log: Record, changes: Sequence[Change] = MIXED, lag: int = 0) -> tuple[list[Violation], list[int]]:
    """Returns the violations, and the lags of the late answers that a bound of 100 allows."""
    checker = Checker(History(changes, {}), bound=100, lag=lag)
    for record in log:
        checker.feed(record)
    return [finding.what for finding in checker.findings], list(checker.lateness)


def explanations_of(checker: Checker, *losses: tuple[int, int]) -> list[str | None]:
    return [*map(Predictions(checker, Circumstances(losses=[*losses])).explain, checker.findings)]


def outside(start: int, end: int, number: int) -> Record:
    return wrote(start, end, OUTSIDE + number, source=OUTSIDE >> NONCE_SHIFT)


def test_reads_may_lag_behind_writes_of_other_programs_by_the_bound() -> None:
    written = outside(100, 200, 2)
    assert bounded(written, by_pk(201, 210, ONE), by_pk(300, 310, ONE)) == ([], [1, 100])
    assert bounded(written, by_pk(301, 310, ONE)) == ([Violation.LATE], [])
    assert bounded(written, by_pk(301, 310, TOUCHED)) == ([], [])


def test_reads_may_not_lag_behind_writes_of_the_library() -> None:
    written = outside(100, 200, 2), outside(210, 220, 3), wrote(230, 240, 40)
    assert bounded(*written, by_pk(241, 250, SAVED_ROW)) == ([], [])
    for older in (ONE, TOUCHED, ELSEWHERE):
        assert bounded(*written, by_pk(241, 250, older)) == ([Violation.STALE], [])
    assert bounded(wrote(1, 2, 10), by_pk(3, 4, NOTHING), changes=MIXED[:4]) == ([Violation.STALE], [])


def test_what_a_read_saw_of_another_program_may_be_missed_within_the_bound() -> None:
    seen = by_pk(10, 20, TOUCHED)
    assert bounded(seen, by_pk(21, 30, ONE), by_pk(120, 130, ONE)) == ([], [])
    assert bounded(seen, by_pk(121, 130, ONE)) == ([Violation.LATE], [])
    assert bounded(by_pk(10, 20, SAVED_ROW), by_pk(21, 30, ELSEWHERE)) == ([Violation.BACKWARDS], [])


def by_slug_51(start: int, end: int, seen: tuple[int, int]) -> Record:
    return by_slug(start, end, 51, seen)


def test_a_delete_by_another_program_is_seen_within_the_bound() -> None:
    gone = wrote(1, 2, 40), outside(100, 200, 5)
    for read in (by_pk, by_slug_51):
        assert bounded(*gone, read(290, 295, SAVED_ROW)) == ([], [90])
        assert bounded(*gone, read(301, 305, SAVED_ROW)) == ([Violation.LATE], [])
        assert bounded(*gone, read(301, 305, NOTHING)) == ([], [])
        changes = [*MIXED[:4], DELETED._replace(transaction=6)]
        by_library = wrote(1, 2, 40), deleted(5, 10, 7)
        assert bounded(*by_library, read(11, 12, SAVED_ROW), changes=changes) == ([Violation.STALE], [])


def test_a_row_of_another_program_may_be_absent_within_the_bound() -> None:
    made = [CREATED._replace(nonce=OUTSIDE + 1)]
    for absent in (by_pk(0, 0, NOTHING), by_slug(0, 0, 50, NOTHING), by_team(0, 0, 3)):
        early, late, too_late = [absent._replace(start=start, end=start + 9) for start in (150, 210, 301)]
        assert bounded(outside(1, 200, 1), early, late, changes=made) == ([], [10])
        assert bounded(outside(1, 200, 1), too_late, changes=made) == ([Violation.LATE], [])


def test_a_list_may_lack_what_another_program_moved_there_although_the_library_has_saved_the_row_since() -> None:
    """A save that moves no row leaves lists alone. Only a write of another program was missed, so it is excused."""
    checker = Checker(History(MIXED[:4], {}), bound=100)
    for record in (outside(100, 200, 3), wrote(210, 220, 40), by_team(221, 230, 4), by_team(301, 310, 4)):
        checker.feed(record)
    assert [finding.what for finding in checker.findings] == [Violation.STALE, Violation.LATE]
    assert explanations_of(checker) == [WITHIN, None]


def test_nothing_excuses_a_read_after_the_bound() -> None:
    """A write that Redis lost is healed by a relay, so that only reads within the bound may miss it."""
    for bound, expected in ((0, [LOST, LOST]), (100, [LOST, None])):
        checker = Checker(History(ALL, {}), bound=bound, rest_from=400)
        written = wrote(100, 200, 20, outcome=Outcome.UNKNOWN)
        for record in (written, by_pk(201, 202, TWO), by_pk(210, 220, ONE), by_pk(303, 310, ONE)):
            checker.feed(record)
        assert explanations_of(checker, (150, 160)) == expected


def test_the_bound_and_the_lag_of_near_caches_add_up() -> None:
    written = outside(100, 200, 2)
    assert bounded(written, by_pk(350, 360, ONE), lag=50) == ([], [150])
    assert bounded(written, by_pk(351, 360, ONE), lag=50) == ([Violation.LATE], [])
    saved = wrote(230, 240, 40, source=2)
    assert bounded(saved, of(1, by_pk(290, 300, ELSEWHERE)), lag=50)[0] == []
    assert bounded(saved, of(1, by_pk(291, 300, ELSEWHERE)), lag=50)[0] == [Violation.STALE]
    assert bounded(saved, of(2, by_pk(241, 250, ELSEWHERE)), lag=50)[0] == [Violation.STALE]
