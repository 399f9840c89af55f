"""Partial images: when they are due, and that they show where the latents are heading."""

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engines.diffusers.previews import Heading, due_after, without_noise
from engines.diffusers.schedulers import Schedulers
from tests.engines import tiny
from tests.engines.test_batch_steps import SCHEDULERS

# Said by numpy of how diffusers' schedulers hand their tensors over.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@given(steps=st.integers(1, 200), count=st.integers(0, 3))
def test_due_steps_are_inside_and_even(steps: int, count: int) -> None:
    """None after the last step, as many as asked for where there is room, and gaps that differ by one at most."""
    due = due_after(steps, count)
    assert len(due) == min(count, steps - 1)
    assert all(0 < step < steps for step in due)
    gaps = [later - earlier for earlier, later in zip((0, *due), (*due, steps), strict=True)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("meaning", ["epsilon", "v_prediction", "sample"])
def test_noise_is_taken_out_as_it_was_put_in(scheduler: str, meaning: str) -> None:
    """Given the true noise, every scheduler's noisy latents lead back to the clean ones."""
    pipeline = tiny.sd()
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type=meaning)
    own = Schedulers(pipeline).fresh(scheduler)
    own.set_timesteps(10)
    clean, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    for timestep in own.timesteps[2:7:2]:
        noisy = own.add_noise(clean, noise, timestep[None])
        kept = own.alphas_cumprod[round(float(timestep))]
        output = {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": kept**0.5 * noise - (1 - kept) ** 0.5 * clean,
        }[meaning]
        # Some steps lie between the timesteps that the noise table knows.
        assert torch.allclose(without_noise(own, output, timestep, noisy), clean, atol=0.05)


def test_noise_is_taken_out_of_flows() -> None:
    """Flow matching mixes image and noise in a straight line; the denoiser's output is its direction."""
    own = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    own.set_timesteps(10)
    clean, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    noisy = own.scale_noise(clean, own.timesteps[4:5], noise)
    assert torch.allclose(without_noise(own, noise - clean, own.timesteps[4], noisy), clean, atol=1e-4)


def test_listening_changes_no_step() -> None:
    """A scheduler that is listened to steps as before, and tells what the last step foresaw."""
    pipeline = tiny.sd()
    heard, alone = Schedulers(pipeline).fresh(None), Schedulers(pipeline).fresh(None)
    heading = Heading(heard)
    output, sample = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    for own in (heard, alone):
        own.set_timesteps(4)
    stepped = [own.step(output, own.timesteps[0], sample) for own in (heard, alone)]
    assert torch.equal(stepped[0].prev_sample, stepped[1].prev_sample)
    assert torch.allclose(heading.latents(), stepped[1].pred_original_sample, atol=1e-5)
