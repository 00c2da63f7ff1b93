"""What Kubernetes adds to a task, at compile time: resources, placement, retries, caching. Nothing of the step itself."""

from kfp import dsl, kubernetes

from pipelines.config import Resources


def placed(task: dsl.PipelineTask, resources: Resources, cached: bool, retries: int) -> dsl.PipelineTask:
    """Put a task where it belongs.

    Args:
        task: the step's task.
        resources: what it asks for.
        cached: whether a run with the same inputs, settings and code may take its earlier outputs.
        retries: how often KFP starts it again after a failure.
    """
    task.set_caching_options(cached)
    task.set_cpu_limit(str(resources.cpu)).set_memory_limit(f"{resources.memory_gib:g}Gi")
    if retries:
        task.set_retry(num_retries=retries, backoff_duration="10s", backoff_factor=2)
    if resources.gpu:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(resources.gpu)
    if resources.node_selector:
        kubernetes.add_node_selector_json(task, resources.node_selector)
    if resources.tolerations:
        kubernetes.add_toleration_json(task, resources.tolerations)
    kubernetes.use_field_path_as_env(task, env_name="CALLTUNE_RUN_ID", field_path="metadata.labels['pipeline/runid']")
    return task
