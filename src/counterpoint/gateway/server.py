"""The gateway over HTTP: routes, admission, and errors as OpenAI's clients know them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from counterpoint.errors import LedgerError
from counterpoint.gateway.access.ledger import Admission, Refused
from counterpoint.gateway.api import SERVED, ApiError, ChatRequest, ErrorBody, PolicyName, parse
from counterpoint.gateway.budgets import Budgets
from counterpoint.gateway.gateway import Gateway
from counterpoint.gateway.incoming import HeadAsGet, body_of, check_host, id_of
from counterpoint.gateway.logs import log, log_failure
from counterpoint.gateway.page import page_response
from counterpoint.gateway.respond import INTERNAL, STOPPING, Served
from counterpoint.gateway.turn import Turn
from counterpoint.gateway.types import Sampling

ANSWER = {"description": "The answer, at once or as events.", "content": {"text/event-stream": {}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "model": ErrorBody}
    for status, what in {
        400: "The request is wrong.",
        401: "No API key, or one that is not valid.",
        403: "Without API keys the server is for its own machine only.",
        404: "No such model.",
        408: "The body did not come.",
        413: "The body is too large.",
        415: "The body is not JSON.",
        429: "A limit was reached, or the server is busy.",
        500: "The gateway failed.",
        502: "A model failed.",
        503: "A model is not asked, since it failed just before; or the server stops, or its database of keys fails.",
        504: "A model took too long.",
    }.items()
}


async def chat(gateway: Gateway, request: Request) -> Response:
    """Take a request in. What is refused here is counted and logged; `respond.Served` does so for the rest."""
    gateway.watch(asyncio.current_task())
    state = request.state
    state.id, state.key = id_of(request), ""
    try:
        return await taken_in(gateway, request)
    except ApiError as error:
        gateway.metrics.requests.labels("none", str(error.status)).inc()
        log("refused", id=state.id, key=state.key, status=error.status, reason=error.reason)
        raise
    except LedgerError:
        gateway.metrics.requests.labels("none", "503").inc()
        raise


async def taken_in(gateway: Gateway, request: Request) -> Response:
    """Who asks, what, of whom; and the answer."""
    admission = await admit(gateway, request)
    request.state.key = admission.key_name if admission else ""
    try:
        asked = parse(await body_of(request, gateway.config.server.max_body_bytes))
        policy = policy_of(gateway, asked)
    except BaseException as error:
        if gateway.ledger and admission:
            await gateway.ledger.book(admission, {}, 0.0)
        if isinstance(error, asyncio.CancelledError):  # only a server that stops does this
            raise STOPPING from error
        raise
    return Served(gateway, request.state.id, asked, policy, turn_of(gateway, asked), admission)


async def admit(gateway: Gateway, request: Request) -> Admission | None:
    """The booking of a request that may be served. Raises `ApiError` 401, 403 or 429."""
    check_place(gateway, request)
    if gateway.ledger is None:
        return None
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    try:
        return await gateway.ledger.admit(key.strip() if scheme.lower() == "bearer" else None)
    except Refused as refused:
        gateway.metrics.refused.labels(refused.kind).inc()
        if refused.kind == "invalid_key":
            message = "no valid API key: send `Authorization: Bearer KEY` with a key of `counterpoint keys add`"
            error = ApiError(401, message, "authentication_error", "invalid_api_key")
        else:
            error = ApiError(429, str(refused), "rate_limit_error", refused.kind, retry_after=refused.retry_after)
        error.reason = refused.detail
        raise error from refused


def check_place(gateway: Gateway, request: Request) -> None:
    """Raises `ApiError` 403 for a request that a foreign web page may have sent here, where no key would stop it."""
    if gateway.ledger is None:
        check_host(request)


def policy_of(gateway: Gateway, asked: ChatRequest) -> PolicyName:
    """Who answers. Raises `ApiError` for a model that is not served."""
    models = gateway.models()
    if asked.model not in models:
        raise ApiError(
            404,
            f"there is no model {asked.model!r}; choose one of {', '.join(models)}",
            code="model_not_found",
            param="model",
            reason="there is no model of the name that was asked for",
        )
    named: Any = gateway.config.routing.policy if asked.model == SERVED else asked.model
    policy = asked.counterpoint.policy or named
    if policy not in models:
        raise ApiError(400, "policy auto needs routing.auto_threshold, which this server has not", param="counterpoint.policy")
    return policy


def turn_of(gateway: Gateway, asked: ChatRequest) -> Turn:
    """What the stages are told."""
    budget = gateway.config.budget
    by_effort = {"none": 0, None: budget.medium, "medium": budget.medium}
    by_effort |= dict.fromkeys(("minimal", "low"), budget.low) | dict.fromkeys(("high", "xhigh"), budget.high)
    signal, answer = asked.counterpoint.max_signal_tokens, asked.max_tokens or asked.max_completion_tokens
    return Turn(
        messages=tuple(message.turn() for message in asked.messages),
        sampling=Sampling(asked.temperature, asked.top_p, asked.stops, asked.seed, asked.n or 1),
        budgets=Budgets(
            signal or by_effort[asked.reasoning_effort],
            answer or budget.answer,
            asked.max_completion_tokens,
            signal_named=signal is not None,
            answer_named=answer is not None,
        ),
        streaming=bool(asked.stream),
    )


def make_app(gateway: Gateway) -> FastAPI:
    """The routes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        gateway.watch(asyncio.create_task(gateway.ready()))  # what servers list is known before it is needed
        yield
        await gateway.close()

    app = FastAPI(title="Counterpoint", lifespan=lifespan, docs_url=None, redoc_url=None)
    schema = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = schema.pop("$defs")
    body = {"content": {"application/json": {"schema": schema}}}

    def openapi() -> dict[str, Any]:
        described = FastAPI.openapi(app)
        described["components"]["schemas"] |= parts
        return described

    app.openapi = openapi
    app.add_middleware(HeadAsGet)

    @app.post(
        "/v1/chat/completions", responses={200: ANSWER, **ERRORS}, openapi_extra={"requestBody": {"required": True, **body}}
    )
    async def chat_completions(request: Request) -> Response:
        return await chat(gateway, request)

    @app.get("/v1/models", responses={403: ERRORS[403]})
    async def models(request: Request) -> dict[str, Any]:
        check_place(gateway, request)
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": 0, "owned_by": "counterpoint"} for name in gateway.models()],
        }

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", responses={503: {"description": "Not now."}})
    async def ready() -> JSONResponse:
        found = await gateway.ready()
        enough = any(found.values()) if gateway.pair.fallback else all(found.values())
        return JSONResponse({"status": "ready" if enough else "not ready", **found}, 200 if enough else 503)

    @app.get("/metrics", response_class=PlainTextResponse, responses={403: ERRORS[403]})
    async def metrics(request: Request) -> Response:
        check_place(gateway, request)
        gateway.metrics.running.set(gateway.gate.running)
        gateway.metrics.waiting.set(gateway.gate.waiting)
        for model in (gateway.pair.capable, gateway.pair.light):
            gateway.metrics.breaker.labels(model.role).set(getattr(model, "breaker_state", "closed") == "open")
        return Response(gateway.metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return page_response()

    @app.exception_handler(ApiError)
    async def _refused(request: Request, error: ApiError) -> JSONResponse:
        known = {"x-request-id": request.state.id} if hasattr(request.state, "id") else {}
        return JSONResponse(error.body, error.status, error.headers | known)

    @app.exception_handler(HTTPException)
    async def _no_route(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(ApiError(error.status_code, str(error.detail)).body, error.status_code, error.headers)

    @app.exception_handler(LedgerError)
    async def _no_database(request: Request, error: LedgerError) -> JSONResponse:
        log_failure("ledger", error)  # what it says of the database is not for clients
        message = "the API key cannot be checked now, since the server's database of keys fails; try again"
        return await _refused(request, ApiError(503, message, "server_error", "keys_unavailable", retry_after=1))

    @app.exception_handler(Exception)
    async def _failed(request: Request, _: Exception) -> JSONResponse:
        return await _refused(request, INTERNAL)  # the server that runs the app logs it

    return app
