"""The states of a file, and which state may follow which.

This table is the whole truth: tests hold the ledger and docs/states.md to it.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What has become of one file in a camera folder. The value is what the database holds."""

    SETTLING = "settling"
    READY = "ready"
    READING = "reading"
    DONE = "done"
    EMPTY = "empty"
    INCOMPLETE = "incomplete"
    UNREADABLE = "unreadable"
    GONE = "gone"
    UNDECODABLE = "undecodable"
    OVERSIZED = "oversized"
    UNSUPPORTED = "unsupported"
    RAW = "raw"
    PAIRED = "paired"
    FAILED = "failed"


MEANING: dict[State, str] = {
    State.SETTLING: "seen, perhaps still being written; taken when it is complete",
    State.READY: "complete, waiting for its turn (also while the model cannot be reached)",
    State.READING: "in the batch now being read",
    State.DONE: "read; its readings are in `bib_results`, none if there is no bib",
    State.EMPTY: "0 bytes; taken when it is written",
    State.INCOMPLETE: "a truncated photo; taken when the rest arrives",
    State.UNREADABLE: "no permission or an I/O error; tried again every 30 s",
    State.GONE: "vanished before it was read; taken if it comes back",
    State.UNDECODABLE: "not a picture, or a broken one; taken again if it changes, or on `bibwatch retry`",
    State.OVERSIZED: "over `images.max_pixels` or `images.max_bytes`; as for `undecodable`",
    State.UNSUPPORTED: "a photo this installation cannot read: HEIF with no library for it",
    State.RAW: "a RAW photo with no JPEG beside it; set the camera to RAW+JPEG",
    State.PAIRED: "a RAW photo whose JPEG is read instead",
    State.FAILED: "the model failed on it `pipeline.max_attempts` times; `bibwatch retry` tries again",
}

# What ends the reading of one file, apart from `done`.
OUTCOMES = frozenset(
    {
        State.EMPTY,
        State.INCOMPLETE,
        State.UNREADABLE,
        State.GONE,
        State.UNDECODABLE,
        State.OVERSIZED,
        State.UNSUPPORTED,
        State.FAILED,
    }
)

# A file that changes on disk starts again at `settling` (or `ready`, if the change came with proof that
# it is complete), whatever its state was.
_CHANGED = frozenset({State.SETTLING, State.READY})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.SETTLING: _CHANGED | {State.GONE},
    State.READY: _CHANGED | {State.READING},
    State.READING: _CHANGED | OUTCOMES | {State.DONE},
    State.RAW: frozenset({State.RAW, State.PAIRED}),
    State.PAIRED: frozenset({State.RAW, State.PAIRED}),
    **dict.fromkeys(OUTCOMES | {State.DONE}, _CHANGED),
    **dict.fromkeys((State.EMPTY, State.INCOMPLETE, State.UNREADABLE), _CHANGED | {State.GONE}),
}

# Something will happen to these by itself.
UNDONE = frozenset({State.SETTLING, State.READY, State.READING})

# What a person may have tried again.
TROUBLE = OUTCOMES
