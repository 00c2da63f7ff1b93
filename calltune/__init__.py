"""The domain that Calltune's steps share: records, rendering, parsing, scoring, storage and tracking."""

__version__ = "0.1.0"
