"""A store by the text that names it in a configuration: a folder, or a container's address."""

from __future__ import annotations

from typing import Final

from azureml_jobs.storage.base import Store
from azureml_jobs.storage.folder_store import FolderStore

CONTAINER: Final = "https://"
"""How the address of a blob container begins, `https://ACCOUNT.blob.core.windows.net/CONTAINER`; a
prefix may follow.
"""


def open_store(where: str, largest: int | None = None) -> Store:
    """Return the store in a folder, or in a blob container as whom this process signs in.

    `largest` is how many bytes an entry may have where others write; None: any number.
    Nothing is asked of it yet. Raises AzureError MDW-803 where nobody is signed in.
    """
    if not where.startswith(CONTAINER):
        return FolderStore(where, largest=largest)
    # Azure's libraries take a second to import, which a folder does without.
    from azureml_jobs.identity.azure_sign_in import sign_in
    from azureml_jobs.storage.blob_store import BlobStore

    return BlobStore.at(where, sign_in(), largest=largest)
