"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

REFUSED = 3
"""Exit code where the gate has refused and promotion was required."""

Config = Annotated[Path, typer.Option("-c", "--config", help="The run's YAML file, for example pipelines/recipes/helpdesk.yaml.")]
Overrides = Annotated[list[str], typer.Option("--set", help="Change a setting: gate.thresholds.tool_accuracy=0.9")]
Workdir = Annotated[Path | None, typer.Option(help="Folder of the run; ./runs/<name> by default.", file_okay=False)]
OutFolder = Annotated[Path, typer.Option("-o", "--out", help="Folder for the results; made if need be.", file_okay=False)]
OutFile = Annotated[Path, typer.Option("-o", "--out", help="JSON file to write.", dir_okay=False)]
Dataset = Annotated[Path, typer.Option(help="What `calltune format` wrote.", exists=True, file_okay=False)]
