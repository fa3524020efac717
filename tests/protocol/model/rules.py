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
    deadline: bool = True
    """A reader that took longer than its lease does not fill."""

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
    stamp_before_clear: bool = True
    """A writer changes the stamp before it clears, not after it."""
    stamp_after_lease: bool = True
    """A reader with a late lease reads the stamp again after the lease, not before it."""

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
