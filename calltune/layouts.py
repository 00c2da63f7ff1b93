"""Which files and objects of a folder or prefix hold rows, and in which layout: told by their names."""

from pathlib import Path

PACKED = {".gz": "gzip", ".zst": "zstd"}
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")


def is_data(name: str) -> bool:
    """Whether a file or object of this name is read where a folder or prefix is the source."""
    return suffix_of(name).removesuffix(packing_of(name)) in SUFFIXES


def is_hidden(path: Path) -> bool:
    """Whether a file is left out of a folder that is the source, by its path below it: it or a folder on the way is hidden."""
    return any(part.startswith((".", "_")) for part in path.parts)


def suffix_of(name: str) -> str:
    """What its name says of a file's layout: ``.jsonl``, ``.csv.gz``, ``.parquet``; in small letters."""
    path, packing = Path(name.lower()), packing_of(name)
    return Path(path.name.removesuffix(packing)).suffix + packing


def packing_of(name: str) -> str:
    """``.gz``, ``.zst`` or nothing; Parquet is packed in itself."""
    suffix = Path(name.lower()).suffix
    return suffix if suffix in PACKED else ""
