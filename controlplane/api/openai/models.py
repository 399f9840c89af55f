"""GET /v1/models: what callers may name, in OpenAI's shape with a few fields of ours."""

from fastapi import APIRouter
from pydantic import BaseModel

from controlplane.api.context import Context
from controlplane.loop import rejections
from controlplane.loop.outlook import Outlook
from controlplane.loop.world import ModelEntry


class OpenAIModel(BaseModel):
    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "inference-manager"
    types: list[str]
    aliases: list[str]
    state: str


class OpenAIModels(BaseModel):
    object: str = "list"
    data: list[OpenAIModel]


def models_router(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["openai"])
    world, outlook = context.world, context.outlook

    @router.get("/models")
    async def models() -> OpenAIModels:
        return OpenAIModels(data=[_view(entry, outlook) for entry in world.models.values()])

    @router.get("/models/{model_id:path}")
    async def model(model_id: str) -> OpenAIModel:
        """By id, alias or type."""
        entry = world.resolve(model_id)
        if entry is None:
            raise rejections.unknown_model(model_id, world.names())
        return _view(entry, outlook)

    return router


def _view(entry: ModelEntry, outlook: Outlook) -> OpenAIModel:
    spec = entry.spec
    return OpenAIModel(
        id=spec.model_id,
        types=[kind.value for kind in spec.types],
        aliases=list(entry.settings.aliases),
        state=outlook.state_of(spec.model_id),
    )
