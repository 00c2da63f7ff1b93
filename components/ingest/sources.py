"""Where rows come from: a file, a folder, an S3 prefix or the Hub."""

from pathlib import Path
from urllib.parse import urlsplit

from calltune import hub, input_files, layouts, runtime, storage
from calltune.errors import DataError, no_such_file
from components.ingest.source import Source

_READ = ", ".join(layouts.SUFFIXES)
_ALSO = " (texts also as .gz or .zst)"


def find(uri: str, tools: str = "") -> Source:
    """The source at a path, ``s3://bucket/prefix`` or ``hf://datasets/…``.

    Of a folder or a prefix every file that may hold rows is read, by its name.

    Args:
        uri: of the rows.
        tools: the tools file, as the config names it; in the folder or below the prefix it holds no rows.

    Raises:
        DataError: there is none.
    """
    if uri.startswith("s3://"):
        return _prefix(uri, tools)
    if uri.startswith(hub.PREFIX):
        from components.ingest import hub as on_hub

        return on_hub.find(uri)
    path = Path(uri)
    if path.is_dir():
        return _folder(uri, path, tools)
    if not path.is_file():
        raise no_such_file(uri)
    return Source(uri, (path,), (), path.stat().st_size, "bytes")


def _prefix(uri: str, tools: str) -> Source:
    parts = urlsplit(uri)
    there = storage.S3(parts.netloc).objects(parts.path.lstrip("/"))
    found = [item for item in there if f"s3://{parts.netloc}/{item.key}" != tools]
    if len(found) < len(there):
        _say_what_the_tools_are(uri, tools)
    objects = tuple(item for item in found if layouts.is_data(item.key))
    if not objects:
        raise DataError(f"{uri}: no {_READ} object there{_ALSO}")
    _say_what_is_left_out(uri, [item.key for item in found if not layouts.is_data(item.key)], len(found))
    return Source(uri, objects, tuple(item.key for item in objects), len(objects), "objects")


def _folder(uri: str, folder: Path, tools: str) -> Source:
    found = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    inside = [path for path in found if not layouts.is_hidden(path)]
    visible = [path for path in inside if (folder / path).is_file()]
    of_tools = [path for path in visible if tools and (folder / path).resolve() == Path(tools).resolve()]
    if of_tools:
        visible = [path for path in visible if path not in of_tools]
        _say_what_the_tools_are(uri, str(of_tools[0]))
    paths = tuple(folder / path for path in visible if layouts.is_data(path.name))
    for path in paths:
        input_files.require_utf8(folder, path)
    for path in inside:
        # It may lead to a folder above it, and from there to itself.
        if (folder / path).is_symlink() and (folder / path).is_dir():
            runtime.note(f"ingest.source: {uri}: the linked folder {_shown(str(path))} is not read")
    if not paths:
        raise DataError(f"{uri}: no {_READ} file in this folder{_ALSO}")
    _say_what_is_left_out(uri, [str(path) for path in visible if not layouts.is_data(path.name)], len(visible))
    return Source(uri, paths, (), sum(path.stat().st_size for path in paths), "bytes")


def _say_what_the_tools_are(uri: str, name: str) -> None:
    runtime.note(f"ingest.source: {uri}: {_shown(name)} is not read as rows, since ingest.tools names it")


def _say_what_is_left_out(uri: str, names: list[str], total: int) -> None:
    if names:
        shown = _shown(", ".join(names[:3]) + (", …" if len(names) > 3 else ""))
        runtime.note(
            f"ingest.source: {uri}: {len(names)} of {total} files are not read, since their names do not end in "
            f"{_READ}{_ALSO}: {shown}"
        )


def _shown(name: str) -> str:
    """As any screen can show it: a name that is not in UTF-8 is none."""
    return name.encode(errors="backslashreplace").decode()
