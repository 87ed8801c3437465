"""The command line of ``intramuros demo``."""

from pathlib import Path
from typing import Annotated

import typer

from intramuros.cli.up import ModelKey, ModelUrl
from intramuros.kernel.config import environment

# What an agent gets when a provider is configured and nothing else is said.
DEFAULT_MODEL = "claude-sonnet-5"


def demo(
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Directory to make and use; a temporary one by default."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the directory in place at the end.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="Model id, if a provider is configured.")
    ] = DEFAULT_MODEL,
    model_base_url: ModelUrl = None,
    model_api_key: ModelKey = None,
) -> None:
    """Run one real job through all planes on this machine, and prove what crossed the wall.

    An agent audits 1,989 mortgage applications: files in a sandbox, decisions in a database behind
    the tunnel. Exit status 0 only if its figures are right and every claim held. Without a model
    provider a script plays the model, and says so.

    Example: intramuros demo --keep --data-dir ./demo
    """
    from intramuros.cli.demo.run import Wishes, run_demo

    env = environment()
    base_url = model_base_url or env.get("ANTHROPIC_UPSTREAM_BASE_URL")
    api_key = model_api_key or env.get("ANTHROPIC_UPSTREAM_API_KEY")
    chosen = model if base_url or api_key else None
    run_demo(Wishes(data_dir, keep, chosen, base_url, api_key))
