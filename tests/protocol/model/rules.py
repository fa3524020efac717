"""The guards of the protocol, by name. Each is on; a broken variant has one of them off."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    # Readers
    lease: bool = True
    """A reader leases the key before its SQL, and fills by comparing with that lease."""
    lease_once: bool = True
    """A lease is never sent a second time."""
    token_per_take: bool = True
    """Every lease has a token of its own, also if several are taken for lookups of one tick."""
    primary: bool = True
    """What is filled comes from the database that is written to, not from a replica."""
    no_fill_in_transaction: bool = True
    """What was read inside a transaction is not filled."""
    join_by_reading: bool = True
    """Who waits for another's load reads the store afterwards, instead of taking what that load has found."""
    always_land: bool = True
    """Those who wait for a fill are woken whatever becomes of it."""
    deadline: bool = True
    """A reader that took longer than its lease lives does not fill."""

    # Writers
    mark: bool = True
    """A writer marks before its COMMIT."""
    mark_first: bool = True
    """Before it, not after it."""
    intent_set: bool = True
    """Intents of several writers stand side by side."""
    clear_own: bool = True
    """A clear removes the writer's own intent only."""
    linger: bool = True
    """Where rows are read from replicas, a writer's intent stays for as long as they may lag."""
    no_hint_on_rows: bool = True
    """A clear leaves no value on a row's key."""

    # Indexes
    mark_index: bool = True
    """A writer marks the index keys of the row's new values."""
    check_row: bool = True
    """A positive index entry answers only if the row that it leads to has the values asked for."""
    stamp: bool = True
    """A late lease fills only if the stamp is the same as before the SQL."""
    stamp_before_clear: bool = True
    """A writer changes the stamp before it clears, not after it."""
    stamp_after_lease: bool = True
    """A late lease reads the stamp again after it was taken, not before."""

    # Epochs
    epoch_before_sql: bool = True
    """An entry carries the epoch that was read before its SQL."""
    epoch_marked: bool = True
    """A bulk write holds an intent on the epoch around its COMMIT: a change before it alone, ..."""
    epoch_cleared: bool = True
    """... or after it alone, is not enough."""
    no_fill_while_marked: bool = True
    """While the epoch holds intents, nothing is filled with it."""

    # Stale values
    refresh_compares: bool = True
    """A refresh fills by comparing with the token of the entry that it replaces."""
    new_stale_token: bool = True
    """A stale entry has a token of its own."""
    first_invalidation_counts: bool = True
    """``allowtime`` begins with the first invalidation and is never extended."""
    counted_from_mark: bool = True
    """It begins before the COMMIT, not when the intent is cleared."""
    moment_of_expiry: bool = True
    """The store is told until when the stale entry may live, not how long: a clear may take its time to arrive."""

    # Near
    near_placeholder: bool = True
    """What was read is kept only if the key was not dropped since it was asked for."""
    near_drop_at_mark: bool = True
    """A writer drops its keys in its own process before its COMMIT, ..."""
    near_drop_at_clear: bool = True
    """... and again when it has cleared: its mark may have failed."""
    near_drop_on_loss: bool = True
    """When the connection is lost, everything is dropped."""
    near_since_sent: bool = True
    """Answers are good since the last answered request was sent, not since it was answered."""
