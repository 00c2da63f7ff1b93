"""YAML of which every key counts: a mapping that has one twice is refused, where YAML libraries take the last."""

from typing import Any

import yaml

from calltune.errors import ConfigError

MERGE = "tag:yaml.org,2002:merge"


def read(text: str) -> Any:
    """The value that a YAML text describes; anchors, aliases and merges (`<<`) are followed.

    Raises:
        yaml.YAMLError: it is not YAML.
        ConfigError: a mapping has a key twice; the key and both lines are named. Or it is nested too deeply.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise ConfigError("is nested too deeply; a config has few levels") from None


class _Loader(yaml.SafeLoader):
    # Here and not in construct_mapping: there a merge has already put an anchor's keys beside the mapping's own.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                raise ConfigError(f"{key.value}: is there twice, in lines {lines[key.tag, key.value]} and {line}; keep one")
            lines[key.tag, key.value] = line
        return node
