"""What loads were seen to take, per model, configuration and tier."""

from dataclasses import asdict, replace

from sqlalchemy import Connection, select

from controlplane.store.records import LoadTier, LoadTime
from controlplane.store.tables import load_times
from controlplane.store.upsert import upsert

# The newest load counts this much: loads drift with the disk cache, so old ones must fade.
_NEWEST_WEIGHT = 0.3


def learn(connection: Connection, sample: LoadTime) -> LoadTime:
    """Blend one load into its row and return the row."""
    key = (
        (load_times.c.model_id == sample.model_id)
        & (load_times.c.config_hash == sample.config_hash)
        & (load_times.c.tier == sample.tier.value)
    )
    row = connection.execute(select(load_times).where(key)).one_or_none()
    learned = sample if row is None else blend(_record(row._asdict()), sample)
    connection.execute(upsert(connection, load_times), {**asdict(learned), "tier": learned.tier.value})
    return learned


def blend(known: LoadTime, sample: LoadTime) -> LoadTime:
    """A plain mean while there are few loads, then a moving one; the peak is the highest seen."""
    samples = known.samples + 1
    weight = max(1 / samples, _NEWEST_WEIGHT)
    mean = known.mean_seconds + weight * (sample.mean_seconds - known.mean_seconds)
    return replace(sample, samples=samples, mean_seconds=mean, peak_mib=max(known.peak_mib, sample.peak_mib))


def read(connection: Connection) -> list[LoadTime]:
    query = select(load_times).order_by(load_times.c.model_id, load_times.c.config_hash, load_times.c.tier)
    return [_record(row._asdict()) for row in connection.execute(query)]


def _record(row: dict[str, object]) -> LoadTime:
    return LoadTime(**{**row, "tier": LoadTier(str(row["tier"]))})  # type: ignore[arg-type]
