"""The section `store`: where the control plane keeps what must outlive it."""

from typing import Annotated

from pydantic import AfterValidator, SecretStr

from controlplane.settings.section import EnvironmentValue, Section


def _postgres_address(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith("postgresql://"):
        raise ValueError('is no address of a PostgreSQL database; write "postgresql://user@host/database"')
    return url


class StoreSettings(Section):
    """Where requests, jobs, replicas and events are kept."""

    url: Annotated[EnvironmentValue, AfterValidator(_postgres_address)] | None = None
    """`postgresql://…` of a PostgreSQL database of its own; needs `inference-manager[postgres]`. A secret one: \
`{"env": "NAME"}` or `{"file": "path"}`. null: the SQLite file `store.sqlite` in `state_dir`."""
