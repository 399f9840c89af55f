"""Calls under /api/v1 from the wire to an engine and back: the typed task, its adapter's call, the common answer."""

from functools import partial

from adapters.tasks import TaskCall, TaskRefused
from controlplane.api.body import CallerGone, read_body
from controlplane.api.context import Context
from controlplane.api.reply import Receive, Reply, Scope, Send
from controlplane.api.serving import AnswerForm, Serving
from controlplane.api.unified.answers import failed, finished, of_our_fields
from controlplane.api.unified.asks import read_ask, type_of
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.loop.admission import Ask


class UnifiedCalls:
    """ASGI application for every path in UNIFIED_PATHS, POST only."""

    def __init__(self, context: Context, serving: Serving) -> None:
        self._keyring = context.keyring
        self._admission = context.admission
        self._media = context.media
        self._serving = serving
        self._max_body_bytes = context.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], dict(scope["headers"])
        try:
            client = self._keyring.identify(headers)
            asked = await read_ask(path, headers, await read_body(receive, headers, self._max_body_bytes))
            entry = self._admission.find(asked.model, (asked.type,), path)
            task = await asked.task(self._media)
            call: TaskCall = entry.adapter.task_call(task, entry.spec.model_id)
            ask = Ask(
                method="POST",
                path=call.path,
                model=entry.spec.model_id,
                types=(asked.type,),
                body_for=lambda _name: call.body,
                content_type=call.content_type,
                stream=False,
                priority=asked.priority,
                deadline_seconds=asked.deadline_seconds,
                client=client.name,
                fields=call.fields,
                entered_by=path,
            )
            exchange = self._admission.admit(ask)
        except TaskRefused as exc:
            await self._refuse(send, scope, rejections.invalid(str(exc), exc.param, "invalid_value"))
        except RequestRejected as exc:
            await self._refuse(send, scope, exc)
        except CallerGone:
            return
        else:
            accepted = exchange.accepted
            form = AnswerForm(
                partial(finished, accepted, task, self._media.artifacts),
                lambda rejection: failed(asked.type, accepted, of_our_fields(rejection, asked.parameters)),
            )
            await self._serving(exchange, receive, send, form)

    @staticmethod
    async def _refuse(send: Send, scope: Scope, rejection: RequestRejected) -> None:
        await Reply(send).error(rejection, failed(type_of(scope["path"]), None, rejection))
