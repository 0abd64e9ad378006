"""The headers of a dead letter: why it is one, and how often what failed was replayed before."""

from __future__ import annotations

#: Headers of ours; a record that was dead before does not carry its old ones along.
HEADERS = frozenset(
    (
        "error-class",
        "error-reason",
        "stage",
        "source-topic",
        "source-partition",
        "source-offset",
        "attempts",
        "failed-at",
        "notification-id",
        "channel",
    )
)
#: On a replayed record, and on its dead letter when it fails again: the number of the replay, counted from 1.
REPLAY_GENERATION = "replay-generation"
#: On a replayed record: the id of its dead letter.
REPLAY_OF = "replay-of"
#: On a dead letter whose value didn't fit its topic: the size it had.
TRUNCATED = "truncated"
