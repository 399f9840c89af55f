"""What the routes share: the pipeline's worker, the requests on their way, the kept results, the counters."""

from dataclasses import dataclass

from engines.diffusers.jobs import PipelineWorker
from engines.diffusers.live import LiveRequests
from engines.diffusers.metrics import Metrics
from engines.diffusers.options import EngineOptions
from engines.diffusers.refusals import dead, not_found
from engines.diffusers.threads import PictureThreads
from engines.diffusers.upscaling import Upscaling
from engines.pictures.intake import Limits


@dataclass(frozen=True, slots=True)
class Engine:
    """`models`: the names it answers to, its own first. `worker`, `upscaling`: None where none is configured."""

    models: tuple[str, ...]
    options: EngineOptions
    worker: PipelineWorker | None
    requests: LiveRequests
    metrics: Metrics
    threads: PictureThreads
    upscaling: Upscaling | None
    started_at: int

    def close(self) -> None:
        """After the last request: waits for what still runs in a thread."""
        self.threads.close()
        if self.upscaling is not None:
            self.upscaling.close()

    @property
    def limits(self) -> Limits:
        """Of a picture that is sent."""
        return Limits(self.options.max_upload_mib, self.options.max_image_megapixels)

    @property
    def asleep(self) -> bool:
        if self.worker is not None:
            return self.worker.load().asleep
        return self.upscaling is not None and self.upscaling.asleep

    def pipeline(self) -> PipelineWorker:
        """The worker, to give it something to do. Raises `Refused` when there is none or its thread has ended."""
        if self.worker is None:
            message = "this engine serves no pipeline, only /v1/images/process: it was started without --model-path"
            raise not_found(message, "no_pipeline")
        if not self.worker.load().alive:
            raise dead()
        return self.worker

    def check_model(self, name: str | None) -> None:
        """Raises `Refused` for a name that is not served; none means the first."""
        if name is not None and name not in self.models:
            raise not_found(
                f"the model {name[:80]!r} does not exist here; served: {', '.join(self.models)}",
                "model_not_found",
                "model",
            )
