"""How evaluate is to answer, looked at before anything is started: whether the engine is here, and the tools have grammars."""

from collections.abc import Iterator, Sequence

from calltune import tools
from calltune.grammar import require_readable
from calltune.records import Tool
from components.evaluate import engines
from pipelines.config import RunConfig


def require(config: RunConfig) -> None:
    """Refuse what evaluate would refuse on this machine after hours of training.

    Raises:
        ConfigError: vLLM cannot run here, or answers are to be held to a schema that has no grammar.
    """
    engines.chosen(config.evaluate.engine)
    file = config.ingest.tools
    if config.evaluate.decoding == "tools" and file and "://" not in file:
        require_readable(tools.load(file))


def described(config: RunConfig, given: Sequence[Tool]) -> Iterator[str]:
    """What `calltune check` says of engine and decoding where they are not the usual ones.

    Args:
        config: of the run, which may be one for a cluster: that this machine has no vLLM is no mistake.
        given: the tools that are known.

    Raises:
        ConfigError: answers are to be held to a schema that has no grammar.
    """
    if config.evaluate.engine == "vllm":
        missing = engines.lacking()
        here = f"not on this machine, since {missing}" if missing else "here, too"
        yield f"engine       vllm: on a cluster in the image {config.images.vllm}; {here}"
    if config.evaluate.decoding == "tools":
        require_readable(given)
        yield "decoding     held to the tools' schemas, of which grammars can be made"
