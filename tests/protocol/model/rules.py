"""The guards of the protocol by name. All are on by default, and a broken variant has one off."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    # Readers
    lease: bool = True
    """A reader leases the key before its SQL, and fills by comparing with that lease."""
    lease_once: bool = True
    """The client never sends a lease a second time."""
    token_per_lease: bool = True
    """Every lease has a token of its own, even among lookups of one tick."""
    primary: bool = True
    """Filled values come from the primary database, not from a replica."""
    no_fill_in_transaction: bool = True
    """Values that were read inside a transaction are not filled."""
    join_by_reading: bool = True
    """A waiter of another reader's load reads the store afterwards, instead of taking that load's result."""
    always_land: bool = True
    """The waiters of a fill are woken even if the fill fails."""
    extension_compares: bool = True
    """A reader whose statement is slow extends its own lease only. It does not take the lease again."""
    deadline: bool = True
    """A reader whose statement took longer than ``LEASE_TTL`` does not fill the rows that it learned from it."""
    deadline_before_sql: bool = True
    """That time is counted from before the statement, not from its end."""

    # Writers
    mark: bool = True
    """A writer marks before its COMMIT."""
    mark_first: bool = True
    """The mark comes before the COMMIT, not after it."""
    intent_set: bool = True
    """A key can hold intents of several writers."""
    clear_own: bool = True
    """A clear removes the writer's own intent only."""
    linger: bool = True
    """If rows are read from replicas, a writer's intent stays for as long as replicas may lag."""
    clear_rolled_back: bool = True
    """A rollback that writes may survive clears the keys, even though they were not marked."""
    no_hint_on_rows: bool = True
    """A clear leaves no value on a row's key."""

    check_unchanged: bool = True
    """A save that marks nothing asks the database whether the row has all of its values already."""

    # Indexes
    outlive_readers: bool = True
    """An intent outlives the last moment for its COMMIT by the time that a reader with a late lease may take."""
    mark_index: bool = True
    """A writer marks the index keys of the row's new values."""
    check_unmoved: bool = True
    """A save that marks no index key checks in its UPDATE that the row has the key already."""
    check_row: bool = True
    """A positive index entry answers only if the row that it leads to has the values asked for."""
    stamp: bool = True
    """A reader with a late lease fills only if the stamp is the same as before the SQL."""
    stamp_at_once: bool = True
    """A reader that stores a row without a lease compares the stamp at the same moment, not before it."""
    deadline_at_once: bool = True
    """Such a reader compares the time at that moment, by the store's clock, since the request may arrive late."""
    row_absent_at_once: bool = True
    """A reader that stores a row without a lease stores it only if the key holds nothing."""
    stamp_before_clear: bool = True
    """A writer changes the stamp before it clears, not after it."""
    stamp_after_lease: bool = True
    """A reader with a late lease reads the stamp again after the lease, not before it."""

    # Partitions
    partition_known_before: bool = True
    """The stamp of a partition that is compared with itself was read before the statement."""
    clock_before: bool = True
    """A stamp's age counts by the lead that the node's clock had before the statement, if that was smaller."""
    clock_after: bool = True
    """And by the lead that it has now, if that is smaller."""
    stamp_strictly_older: bool = True
    """A stamp that was stored at the moment of the statement is not older."""
    since_before_sql: bool = True
    """That moment is taken before the statement, not after it."""
    stamp_with_epoch: bool = True
    """Who changes an epoch changes the stamp of its partition, too. Otherwise, as with tenants, no age is asked for."""
    epoch_with_stamp: bool = True
    """The epoch is read at the same moment as the stamp's age."""
    stamp_of_partition: bool = True
    """A late lease compares the stamp of the row's own partition, not that of the index entry."""
    epoch_of_partition: bool = True
    """A row has the epoch of its own partition, which is on the same node."""
    version_of_node: bool = True
    """A version that an earlier life of its node made is absent."""
    marks_replicated: bool = True
    """A mark that the replica lacks is refused, where the replica may follow before it has all marks."""
    refusal_counts: bool = True
    """A mark that the server refuses is not taken for one that only its replicas lack, if its WAIT fails as well."""
    every_partition_marked: bool = True
    """A bulk write and ``clear()`` change the epochs of all partitions of the model."""

    # Epochs
    epoch_before_sql: bool = True
    """An entry carries the epoch that was read before its SQL."""
    epoch_marked: bool = True
    """A bulk write marks the epoch before its COMMIT. Clearing it afterwards is not enough."""
    epoch_cleared: bool = True
    """A bulk write clears the epoch after its COMMIT. Clearing it before is not enough."""
    no_fill_while_marked: bool = True
    """Readers fill nothing while the epoch holds intents."""

    # Stale values
    refresh_compares: bool = True
    """A refresh fills by comparing with the token of the entry that it replaces."""
    new_stale_token: bool = True
    """A stale entry has a token of its own."""
    first_invalidation_counts: bool = True
    """``allowtime`` begins with the first invalidation and is never extended."""
    counted_from_mark: bool = True
    """``allowtime`` begins before the COMMIT, not when the intent is cleared."""
    moment_of_expiry: bool = True
    """A clear sends the time at which the stale entry expires, not its lifetime, since the clear may be delayed."""

    # Near
    near_placeholder: bool = True
    """A reply is kept only if the key was not dropped since the request."""
    near_drop_at_mark: bool = True
    """A writer drops its keys in its own process before its COMMIT."""
    near_drop_at_clear: bool = True
    """A writer drops its keys again after the clear, since its mark may have failed."""
    near_drop_on_loss: bool = True
    """A process drops all near entries when it loses the connection."""
    near_since_sent: bool = True
    """Near entries count as fresh since the last answered request was sent, not since its reply."""
    near_catches_up: bool = True
    """After the database has answered a lookup, near entries answer once a request is answered that was sent later."""
    near_compares: bool = True
    """The same after a kept row was read on another connection and is another one there."""
    near_asks_for_keys: bool = True
    """A ping asks a node about a key, so that a node that has lost its slots does not vouch for entries."""
    near_each_node: bool = True
    """Each node vouches for the entries that were read from it, and for no others."""
    near_forget_redirected: bool = True
    """The answer of another node than the one that was asked is not kept."""
    near_forget_moved: bool = True
    """Values that were read before the process learned of another node are not kept."""

    # Derived entries
    tokens_compared: bool = True
    """A derived entry answers only if all its dependencies have the tokens that they had."""
    derived_read_first: bool = True
    """An entry that was read after its dependencies answers only if the reader has seen the same one before."""
    every_answer_needs_token: bool = True
    """An answer that no entry holds has no token, and what was computed from it is not stored."""
    token_as_read: bool = True
    """The token of an answer is that of the entry as it was read. It is not looked up afterwards."""
    first_token_counts: bool = True
    """If a key was read twice, its first token counts. A later one does not replace it."""
    derived_needs_something: bool = True
    """A value without any dependency is not stored: what it was computed from was read before the computation."""
    row_needs_epoch: bool = True
    """Who depends on a row depends on its model's epoch, too."""
    derived_lease: bool = True
    """A value is stored under a lease of its own key, since its key may be invalidated by hand."""
    derived_joined_by_reading: bool = True
    """A waiter of another computation reads the entry afterwards, instead of taking that computation's value."""
    snapshot_validated: bool = True
    """A computed value is a snapshot only if its dependencies are unchanged after the last of them was read."""
    transaction_not_stored: bool = True
    """A value that was computed in a transaction is not stored."""
    transaction_not_answered: bool = True
    """A lookup in a transaction is not answered by a derived entry."""

    # Table versions
    version_before_statement: bool = True
    """The table's version is read before the statement, not after it."""
    version_marked: bool = True
    """A writer marks the versions of its tables before the COMMIT. Deleting them afterwards is not enough."""
    version_cleared: bool = True
    """A writer clears the versions of its tables after the COMMIT. Clearing them before is not enough."""
    version_fresh: bool = True
    """A clear leaves no version, and not the one that the intent replaced."""
    version_only_if_absent: bool = True
    """A reader creates a version only where there is nothing. It does not replace intents."""
    marked_version_refused: bool = True
    """An intent is no version: nothing depends on its bytes."""
    cascade_marks_version: bool = True
    """A delete marks the versions of all tables that it cascades to."""
    cap_version_first: bool = True
    """The version that stands for many rows is read before the first of them, not when there are too many."""
    cap_version_created_first: bool = True
    """Such a version that is missing is created before the first row is read."""
    ignoring_version_not_used: bool = True
    """A version that writes of some columns leave alone stands for no rows."""
    version_of_incarnation: bool = True
    """A version that an earlier incarnation of the server made is absent, in validations, too."""
    clear_marks_version: bool = True
    """``clear()`` marks and clears the table's version, as it does with the epoch."""

    # Tokens of rows
    late_token_checks_stamp: bool = True
    """A late lease that finds the row cached takes its token only if the stamp is the same as before the SQL."""
    late_token_in_time: bool = True
    """A reader takes no token after its deadline, since an intent may have expired meanwhile."""
    refresh_keeps_equal: bool = True
    """A refresh keeps the entry's token only if it has found the same row, so that a difference changes the token."""

    # Responses
    not_modified_validated: bool = True
    """A 304 is said only of an entry whose dependencies are unchanged. The same validator is not enough."""
    validator_of_content: bool = True
    """A validator differs with the content, so that a 304 is said only if the client's body is the same."""

    # Write-through
    saver_compares_stamp: bool = True
    """A saver changes the stamp, and fills, only if the stamp is the same as before its COMMIT."""
    saver_stamp_before_commit: bool = True
    """A saver reads the stamp before its COMMIT, not after it."""
    saver_takes_lease: bool = True
    """A saver replaces its intent by a lease, not by the row, so that it can look at the stamp once more."""
    saver_alone: bool = True
    """A saver takes the lease only if no other writer's intent stands."""
    saver_deadline: bool = True
    """A saver that took longer than a reader may take, from before its COMMIT to its lease, does not fill."""
    saver_epoch_before_commit: bool = True
    """A saver's entry has the epoch that was read before its COMMIT, not after it."""
    saver_reads_again: bool = True
    """A saver fills only if the stamp is its own when its lease stands."""

    # Group versions
    group_left_marked: bool = True
    """A writer marks the version of the group that the row leaves."""
    group_entered_marked: bool = True
    """A writer marks the version of the group that the row enters."""
    group_left_locked: bool = True
    """The row is locked when the writer reads which group it leaves."""
    group_needs_epoch: bool = True
    """Who depends on a group's version depends on the epoch, too, since a bulk write names no groups."""

    # Relays
    relay_lives: bool = True
    """Entries answer only while a relay is known to live."""
    relay_looked_at_reply: bool = True
    """The countdown is looked at when the reply is there, since the request may have been delayed."""
    relay_known_when_sent: bool = True
    """A reply is judged by the countdown that was known when its request was sent. A relay may have returned since."""
    relay_counts_from_question: bool = True
    """The remaining life is counted from before the question, not from the answer."""
    relay_return_drops_near: bool = True
    """When a relay returns, the process drops what it keeps, since messages about it may be on their way."""
    relay_invalidates_first: bool = True
    """A relay deletes lines after it has invalidated what they name, not before."""
    relay_claims_from_start: bool = True
    """A claim ends a while after the relay has read the clock, not after it has claimed."""
    relay_clock_first: bool = True
    """A relay reads the clock before it selects the lines, not after it."""
    relay_deletes_seen: bool = True
    """A relay deletes the lines that it has seen, not all up to the highest: ids are committed in any order."""
    relay_trims_last: bool = True
    """Lines are deleted after the line that stands for them is committed, not before."""
    relay_claims_all: bool = True
    """A relay claims to live only if it has left no lines out."""
    relay_leaves_intents: bool = True
    """A relay's clear leaves the intents of writers, which are about to commit."""
    relay_clears_version: bool = True
    """A relay clears the table's version, too, on which derived entries depend."""
    relay_stamps: bool = True
    """A relay changes the stamp, as a writer does, since readers with late leases compare it."""
    relay_stamps_before_clear: bool = True
    """A relay changes the stamp before it clears, not after it."""
    relay_bumps_epoch: bool = True
    """A relay clears the epoch if the catalogue shows a change that no trigger has seen."""
    relay_catalogue_after_clock: bool = True
    """A relay looks at the catalogue after it has read the clock."""
    relay_begins_anew: bool = True
    """A relay that starts clears the epoch, since it does not know the catalogue of the last one."""

    # Relays that read a replication slot
    stream_waits_for_mark: bool = True
    """A relay claims when it has received its own message, not when nothing more has arrived."""
    stream_marks_after_clock: bool = True
    """A relay writes its message after it has read the clock, not before it."""
    stream_confirms_invalidated: bool = True
    """A relay confirms what it has invalidated, not what it has received."""
    stream_knows_slot: bool = True
    """A relay does not trust a slot that is further than recorded: another program has created it again."""
    stream_looks_when_reading: bool = True
    """A relay looks at the slot when it reads it, as another program may have created it again since it looked."""
    stream_clears_for_new_slot: bool = True
    """A relay clears the epoch if the slot is a new one."""

    # Nested derived entries
    inner_needs_passed_on: bool = True
    """The outer entry depends on all that the inner one depends on. Its token alone says nothing of rows."""
    inner_token_noted: bool = True
    """The outer entry depends on the inner one's token, too, since the inner one may be invalidated by hand."""
