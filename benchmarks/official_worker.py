"""The SDK's own worker as a process; arguments: base URL, environment, key file, directory."""

import sys
from pathlib import Path

import anyio
from anthropic import AsyncAnthropic


async def serve(base_url: str, environment_id: str, key: str, workdir: str) -> None:
    """Serve one environment until the process is ended."""
    async with AsyncAnthropic(base_url=base_url, auth_token=key) as sdk:
        worker = sdk.beta.environments.work.worker(
            environment_id=environment_id, environment_key=key, workdir=workdir, max_idle=0.5
        )
        print("ready", flush=True)
        await worker.run()


if __name__ == "__main__":
    base_url, environment_id, key_file, workdir = sys.argv[1:]
    anyio.run(serve, base_url, environment_id, Path(key_file).read_text().strip(), workdir)
