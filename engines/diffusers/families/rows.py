"""How calls of most denoisers are joined: their tensors count rows in the first dimension.

A family says which arguments carry rows and which are the same for every row of one image size. An argument that it
does not know keeps a call to itself: nothing is mixed by guess.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from engines.diffusers.jobs import ImageJob
from engines.diffusers.session import DenoiserCall


@dataclass(frozen=True)
class RowFamily:
    """A class of denoiser.

    `denoiser`: its name in the pipeline; `counted`: the argument whose rows are counted; `rowed`: arguments with one
    entry per row, tensors or dictionaries of tensors; `shared`: arguments that are alike for one image size.
    """

    pipelines: tuple[str, ...]
    denoiser: str
    counted: str
    rowed: frozenset[str]
    shared: frozenset[str] = frozenset()

    def arguments(self, _pipeline: Any, job: ImageJob) -> dict[str, Any]:
        """Guidance and negative prompt, by the names of the pipeline's `__call__`."""
        return {"guidance_scale": job.guidance, "negative_prompt": job.negative_prompt or None}

    def takes_negative_prompt(self, _pipeline: Any) -> bool:
        return True

    def rows(self, call: DenoiserCall) -> int:
        return int(call.arguments[self.counted].shape[0])

    def key(self, call: DenoiserCall, job: ImageJob) -> Hashable:
        """Calls with equal keys may be joined. The size is in it because position tables follow from it."""
        if not set(_given(call)) <= self.rowed | self.shared | {"timestep", "return_dict"}:
            return job.job_id
        described = ((name, _shape(value)) for name, value in sorted(_given(call).items()) if name != "timestep")
        return (job.width, job.height, *described)

    def shape(self, call: DenoiserCall) -> Hashable:
        """What the memory of a joined call follows from, beside its rows."""
        return tuple((name, _shape(value)) for name, value in sorted(_given(call).items()) if name != "timestep")

    def join(self, calls: Sequence[DenoiserCall]) -> DenoiserCall:
        joined = dict(calls[0].arguments)
        if len(calls) == 1:
            return calls[0]
        for name in self.rowed & set(_given(calls[0])):
            joined[name] = _stacked([call.arguments[name] for call in calls])
        joined["timestep"] = torch.cat([self._timestep(call) for call in calls])
        return DenoiserCall(joined)

    def row_tensors(self, call: DenoiserCall) -> list[torch.Tensor]:
        """Every tensor whose first dimension counts rows."""
        given = [call.arguments.get(name) for name in (*self.rowed, "timestep")]
        return [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor) and leaf.ndim > 0]

    def split(self, output: Any, rows: Sequence[int]) -> list[Any]:
        """One answer per call, in the denoiser's own form: a tuple of one."""
        return [(part,) for part in output[0].split(list(rows))]

    def latents(self, pipeline: Any, latents: torch.Tensor, _job: ImageJob) -> torch.Tensor:
        """What the pipeline gives to its decoder, for a partial image."""
        shift = getattr(pipeline.vae.config, "shift_factor", None) or 0.0
        return latents / pipeline.vae.config.scaling_factor + shift

    def _timestep(self, call: DenoiserCall) -> torch.Tensor:
        """One entry per row. Schedulers count in integers or in floats; every denoiser embeds floats."""
        timestep = call.arguments["timestep"]
        sample = call.arguments[self.counted]
        timestep = torch.as_tensor(timestep, device=sample.device)
        return (timestep if timestep.is_floating_point() else timestep.float()).expand(self.rows(call))


def _given(call: DenoiserCall) -> dict[str, Any]:
    """The arguments that say something: diffusers passes None or an empty dictionary for what is not used."""
    return {name: value for name, value in call.arguments.items() if value is not None and value != {}}


def _shape(value: Any) -> Hashable:
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape[1:]), str(value.dtype))
    if isinstance(value, Mapping):
        return tuple((name, _shape(entry)) for name, entry in sorted(value.items()))
    return repr(value)


def _stacked(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {name: _stacked([value[name] for value in values]) for name in values[0]}
    return torch.cat(list(values))
