"""The rows of a data set on the Hugging Face Hub, one after the other, through `datasets`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from calltune import hub
from components.ingest.files import json_text
from components.ingest.jsontext import RawRow
from components.ingest.source import Source


@dataclass(frozen=True)
class HubSource(Source):
    """A split of a data set.

    Attributes:
        place: its name on the Hub; or a folder laid out as one.
        commit: of the Hub; empty for a folder.
    """

    place: str = ""
    commit: str = ""

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows as they come; none is kept.

        Raises:
            DataError: the data set has no such config or split, or cannot be read.
            Unavailable: the Hub does not answer.
        """
        import datasets

        address = hub.parsed(self.uri)
        try:
            split = datasets.load_dataset(
                self.place, address.config or None, split=address.split, revision=self.commit or None, streaming=True
            )
            for number, row in enumerate(split, 1):
                text, problem = json_text(row)
                # How many there will be is not known: half of it is done until all is.
                yield RawRow(self.uri, number, text, 1, problem)
        except Exception as error:  # as in calltune.hub
            raise hub.explained(self.uri, error) from None

    def recorded(self) -> list[dict[str, Any]]:
        """What was read, to be written down."""
        return [{"uri": self.uri, "commit": self.commit}]


def find(uri: str) -> HubSource:
    """The source at ``hf://datasets/…``, at the commit that it means now.

    Raises:
        DataError: there is none.
        Unavailable: the Hub does not answer.
    """
    return HubSource(uri, (), (), 2, "rows", hub.parsed(uri).name, hub.commit_of(uri))
