"""Calls under /api/v1 as what the door is asked: the typed task, its adapter's call, the common answer."""

import base64
from functools import partial

import orjson

from adapters.base import EngineAdapter
from adapters.tasks import ImageProcessing, ImageToText, Picture, Task, TaskCall, TaskRefused
from controlplane.api.arrival import Arrival
from controlplane.api.unified.answers import failed, finished, of_our_fields
from controlplane.api.unified.asks import UnifiedAsk, Wish, read_ask, type_of
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.loop.admission import Admission, Ask
from controlplane.loop.callbacks.address import checked_callback_url
from controlplane.loop.exchange import Accepted
from controlplane.loop.prepared import AnswerForm, JobCall, JobTerms, Prepared
from controlplane.media.media import Media
from controlplane.store.records import CallbackDraft

# A larger picture is a file of its own, so that the store stays quick.
_INLINE_BYTES = 64 * 1024


class UnifiedReader:
    """For every path in UNIFIED_PATHS, and for the one that takes every kind."""

    def __init__(self, admission: Admission, media: Media, *, private_callbacks: bool) -> None:
        self._admission = admission
        self._media = media
        self._private_callbacks = private_callbacks

    async def read(self, arrival: Arrival) -> Prepared:
        asked = await read_ask(arrival)
        callback = self._callback(asked.wish, arrival.client)
        entry = self._admission.find(asked.model, (asked.type,), asked.path)
        model_id = entry.spec.model_id
        task = await asked.task(self._media)
        call = _call(entry.adapter, task, model_id)
        # So that whoever follows the job sees the text grow.
        stream = entry.adapter.task_stream(call) if arrival.begun else None
        call = stream or call
        ask = Ask(
            method="POST",
            path=call.path,
            model=model_id,
            types=(asked.type,),
            body_for=lambda _name: call.body,
            content_type=call.content_type,
            stream=stream is not None,
            priority=asked.priority,
            deadline_seconds=asked.deadline_seconds,
            client=arrival.client,
            fields=call.fields,
            entered_by=asked.path,
        )
        job = None if asked.wish is None else _terms(asked, asked.wish, callback, model_id, task)
        return Prepared(ask, partial(self._form, asked, task), job, gathered=stream is not None)

    def refusal(self, path: str, rejection: RequestRejected) -> bytes:
        return failed(type_of(path), None, rejection)

    def _callback(self, wish: Wish | None, client: str | None) -> CallbackDraft | None:
        """Signed with the secret of the caller's name, where there is one. Raises RequestRejected."""
        if wish is None or wish.callback_url is None:
            return None
        return CallbackDraft(checked_callback_url(wish.callback_url, allow_private=self._private_callbacks), client)

    def _form(self, asked: UnifiedAsk, task: Task, accepted: Accepted) -> AnswerForm:
        return AnswerForm(
            partial(finished, accepted, task, self._media.artifacts),
            lambda rejection: failed(asked.type, accepted, of_our_fields(rejection, asked.parameters)),
        )


def _call(adapter: EngineAdapter, task: Task, model_id: str) -> TaskCall:
    try:
        return adapter.task_call(task, model_id)
    except TaskRefused as exc:
        raise rejections.invalid(str(exc), exc.param, "invalid_value") from exc


def _terms(asked: UnifiedAsk, wish: Wish, callback: CallbackDraft | None, model_id: str, task: Task) -> JobTerms:
    work: dict[str, object] = {**asked.work(), "model": model_id}
    picture = task.image if isinstance(task, ImageToText | ImageProcessing) else None
    if picture is not None and len(picture.content) <= _INLINE_BYTES:
        work["image"], picture = _data_url(picture), None
    return JobTerms(
        call=JobCall(asked.path, orjson.dumps(work)),
        picture=picture,
        callback=callback,
        tags=wish.tags,
        wait_seconds=wish.wait_seconds,
    )


def _data_url(picture: Picture) -> str:
    return f"data:{picture.content_type};base64,{base64.b64encode(picture.content).decode()}"
