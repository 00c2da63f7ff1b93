"""KFP adapter of the ingest step."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def ingest(config: dict, fingerprint: str, code: str, records: dsl.Output[dsl.Dataset], metrics: dsl.Output[dsl.Metrics]):  # type: ignore[type-arg, no-untyped-def]
    """Source → validated records. `fingerprint` is not read: it is in the cache key, so that new data is never hidden."""
    from pathlib import Path

    from calltune import runtime

    with runtime.step("ingest"):
        from components.ingest.config import IngestConfig
        from components.ingest.step import ingest

        result = ingest(IngestConfig(**config), Path(records.path))
        runtime.record(metrics, vars(result))
