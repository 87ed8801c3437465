"""What every sandbox of one worker is made of, with the image fetched and the devices found."""

from dataclasses import dataclass, replace

from intramuros.execution.sandbox.base import Provider, SandboxError, SandboxSpec
from intramuros.execution.sandbox.devices import find_gpus
from intramuros.execution.sandbox.oci.images import Images
from intramuros.execution.settings import WorkerSettings
from intramuros.kernel.errors import OperatorError


@dataclass(frozen=True)
class Furnished:
    """A spec that this host can make."""

    spec: SandboxSpec
    image: str | None = None
    """Digest of the image's manifest, where it has one."""


def furnish(settings: WorkerSettings, provider: Provider) -> Furnished:
    """Return what the settings ask for; fetching an image takes its time.

    Raises:
        OperatorError: the provider or the host cannot, or the image is none.
    """
    spec = settings.spec()
    if settings.gpus:
        if not provider.capabilities.gpu:
            raise OperatorError(
                f"sandboxes of {provider.name!r} cannot have GPUs",
                "use bubblewrap or oci, or leave gpus out",
            )
        spec = replace(spec, devices=find_gpus(settings.gpus))
    if settings.image is None:
        return Furnished(spec)
    try:
        images = Images(settings.state_dir / "images", settings.image_auth_file)
        image = images.open(settings.image)
    except SandboxError as error:
        raise OperatorError(
            f"image {settings.image}: {error.message}", "name an image that is whole, and for Linux"
        ) from error
    except OSError as error:
        raise OperatorError(
            f"image {settings.image} cannot be kept ({error})",
            "free space in the state directory, and let this user write it",
        ) from error
    variables = {**image.environment, **spec.environment}
    spec = replace(spec, rootfs=image.rootfs, environment=variables, path=image.path)
    return Furnished(spec, image.digest)
