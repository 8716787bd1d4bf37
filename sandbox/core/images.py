"""Images as the base of a sandbox: their layers with Hutch's own on top, and what their sandboxes need to know of them.

Reads images as data through rootfs/; prepares each once per daemon.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass

from rootfs.errors import ImageError, UnknownImage
from rootfs.image import Image
from rootfs.read_image import is_directory, read_from_image
from rootfs.store import Store
from rootfs.system_layer import Content, make_system_layer
from rootfs.users import ROOT, User, image_user
from sandbox.core import environment, image_trust
from sandbox.core.errors import NotFound
from sandbox.host.trusted import host_bundle


@dataclass(frozen=True)
class Base:
    """An image ready for sandboxes: layer ids bottom first (the system layer last), its shell, whom its commands run as, and
    where they start when there is no repository.
    """

    image: Image
    layers: tuple[str, ...]
    has_bash: bool
    user: User = ROOT
    workdir: str = environment.WORKSPACE


class Bases:
    """Prepares images; what was prepared is kept until the image or the CA changes."""

    def __init__(self, store: Store, ca_pem: bytes, changing_layers: asyncio.Lock) -> None:
        self._store = store
        self._changing_layers = changing_layers
        self._ca_pem = ca_pem
        self._prepared: dict[str, Base] = {}
        self._records: dict[str, tuple[os.stat_result, Image]] = {}

    async def get(self, name: str) -> Base:
        """The base made of the image `name`. Raises NotFound; ImageError where its user isn't in it."""
        try:
            image = self._load(name)
        except UnknownImage as error:
            remedy = "hutch image build base" if name == "base" else error.remedy
            raise NotFound(error.message, remedy) from error
        base = self._prepared.get(image.digest)
        if base is None or not self._store.has_layer(base.layers[-1]):
            async with self._changing_layers:  # nothing names its layer yet
                base = self._prepared[image.digest] = await asyncio.to_thread(self._prepare, image)
        return base

    def _load(self, name: str) -> Image:
        """The image's record; read again only when its file is another one: every start asks for it."""
        found, known = self._store.stat(name), self._records.get(name)
        if known is None or not os.path.samestat(known[0], found) or known[0].st_mtime_ns != found.st_mtime_ns:
            known = self._records[name] = (found, self._store.load(name))
        return known[1]

    def layers_in_use(self) -> set[str]:
        """The system layers that were prepared."""
        return {base.layers[-1] for base in self._prepared.values()}

    def _prepare(self, image: Image) -> Base:
        user = image_user(self._store, image)
        files: dict[str, Content] = dict(environment.overlay_files(user))
        if read_from_image(self._store, image, "etc/gitconfig") is None:
            files["etc/gitconfig"] = environment.GIT_CONFIG
        files |= image_trust.files(self._store, image, host_bundle().read_bytes(), self._ca_pem)
        layer = make_system_layer(self._store, files)
        has_bash = read_from_image(self._store, image, "bin/bash") is not None
        return Base(image, (*image.layers, layer), has_bash, user, self._workdir(image))

    def _workdir(self, image: Image) -> str:
        """The image's own directory; where it names none, or one that it hasn't got, the workspace."""
        path = image.config.workdir
        with suppress(ImageError):  # a link that leads round in a circle
            if path != "/" and is_directory(self._store, image, path):
                return path
        return environment.WORKSPACE
