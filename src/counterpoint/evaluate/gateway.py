"""A running gateway as systems: each of its policies, asked over HTTP as any client asks it."""

import http.client
import json
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from counterpoint.errors import ConfigError, RunError
from counterpoint.evaluate.baselines import Attempt, Call, Sampled, Settings, System
from counterpoint.gateway.api import SERVED
from counterpoint.policy.prompting import answer_of
from counterpoint.rl.data import seed_for
from counterpoint.rl.types import Question

KEY = "COUNTERPOINT_API_KEY"
"""Environment variable that holds the gateway's API key."""
CAPABLE = "capable"
"""The policy that the others are compared with: M alone."""
START = "Start one with `counterpoint serve RUN` and give the URL that it prints"
AT_A_TIME = 16
CONNECT_SECONDS, ANSWER_SECONDS = 10, 3600
"""The gateway has limits of its own on how long its models may take."""
PATIENCE_SECONDS = 3600
"""How long one request may be told to come back later."""


def policies_of(url: str) -> dict[str, System]:
    """The policies of the gateway at `url` by name, M alone first.

    Raises `ConfigError` for what is no URL, `RunError` for what is no gateway; the systems raise `RunError` for what it refuses.
    """
    client = Client(url)
    listed = client.get("/v1/models").get("data")
    names = [str(row.get("id")) for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    if SERVED not in names or CAPABLE not in names:
        raise RunError(f"{client.url} is no Counterpoint gateway: it serves {', '.join(names) or 'no models'}. {START}")
    names.sort(key=lambda name: name != CAPABLE)
    return {name: policy(client, name) for name in names if name != SERVED}


def policy(client: "Client", name: str) -> System:
    """One policy; its answers are asked for one by one, and each is counted as the gateway counts it."""

    def system(questions: Sequence[Question], settings: Settings) -> Sampled:
        def ask(question: Question, sample: int) -> Attempt:
            body = request_of(name, question, settings, sample)
            what = f"question {question.id}, policy {name}"
            return attempt_of(client.post("/v1/chat/completions", body, what), f"{client.url}: {what}")

        asked = [(question, sample) for question in questions for sample in range(settings.samples)]
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            try:
                attempts = iter(list(pool.map(ask, *zip(*asked, strict=True))))
            except BaseException:
                client.give_up()  # else the others would be waited for
                raise
        return Sampled([[next(attempts) for _ in range(settings.samples)] for _ in questions])

    return system


def request_of(name: str, question: Question, settings: Settings, sample: int) -> dict[str, Any]:
    """What a policy is asked. The gateway adds its own instruction to the question, and has its own top_k."""
    return {
        "model": name,
        "messages": [{"role": "user", "content": question.text}],
        "temperature": settings.answer.temperature,
        "top_p": settings.answer.top_p,
        "max_tokens": settings.answer.max_tokens,
        "seed": seed_for(settings.seed, question.id, sample),
        "counterpoint": {"max_signal_tokens": settings.signal.max_tokens},
    }


def attempt_of(response: Any, where: str) -> Attempt:
    """A response as an attempt. Raises `RunError` for one that does not say what each model took."""
    try:
        [choice] = response["choices"]
        signal, content = choice["message"].get("reasoning_content") or "", choice["message"]["content"]
        usage = response["usage"]["counterpoint"]
        # how the calls before the last ended is not said
        stop = "length" if choice["finish_reason"] == "length" else "end"
        calls = [(call["role"], Call(call["prompt_tokens"], call["output_tokens"], stop)) for call in usage["calls"]]
        capable, light = (tuple(call for whose, call in calls if whose == role) for role in ("capable", "light"))
        if not calls:
            raise ValueError("it lists no calls")
        return Attempt(signal, answer_of(content), capable, light, fell_back=usage["fallback"] is not None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{where}: the answer is not a Counterpoint gateway's, which says what each model took ({type(error).__name__}: "
            f"{error}). {START}"
        ) from error


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    text: str
    retry_after: int | None
    """Seconds, at least one."""


class Client:
    """JSON over HTTP connections that are kept open, from any number of threads. Raises `ConfigError` for a bad URL or key."""

    def __init__(self, url: str):
        self.url = url.rstrip("/").removesuffix("/v1")
        self._place = place_of(self.url)
        self._headers = {"Content-Type": "application/json"} | authorization()
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._given_up = threading.Event()

    def get(self, path: str) -> dict[str, Any]:
        """A JSON object. Raises `RunError` if it is not to be had."""
        return self._json("GET", path, None, path)

    def post(self, path: str, body: Any, what: str) -> dict[str, Any]:
        """The JSON object that answers; `what` is asked stands in errors. Raises `RunError`."""
        return self._json("POST", path, json.dumps(body), what)

    def give_up(self) -> None:
        """Let nobody wait for the server to be less busy any longer."""
        self._given_up.set()

    def pause(self, seconds: int) -> bool:
        """Wait; returns whether all is given up meanwhile."""
        return self._given_up.wait(seconds)

    def _json(self, method: str, path: str, body: str | None, what: str) -> dict[str, Any]:
        where, waited = f"{self.url}: {what}", 0
        while (reply := self._ask(method, path, body, where)).status == 429:
            if reply.retry_after is None or waited >= PATIENCE_SECONDS or self.pause(reply.retry_after):
                break
            waited += reply.retry_after
        if reply.status != 200:
            raise RunError(f"{where}: the gateway answered {reply.status}: {said_in(reply.text)}. {advice(reply.status)}")
        try:
            found = json.loads(reply.text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RunError(f"{where}: this is no gateway, it answered {reply.text[:80]!r}. {START}")
        return found

    def _ask(self, method: str, path: str, body: str | None, where: str) -> Reply:
        """One exchange, over a connection that lay idle if there is one."""
        try:
            with suppress(IndexError, ConnectionError):  # the server may have closed it meanwhile
                return self._exchange(self._idle.pop(), method, path, body)
            return self._exchange(self._connect(), method, path, body)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            why = str(error) or type(error).__name__
            raise RunError(f"{where}: the gateway cannot be reached or went away ({why}). {START}") from error

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._place.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(self._place.hostname), self._place.port, timeout=CONNECT_SECONDS)
        connection.connect()
        connection.sock.settimeout(ANSWER_SECONDS)
        return connection

    def _exchange(self, connection: http.client.HTTPConnection, method: str, path: str, body: str | None) -> Reply:
        try:
            connection.request(method, self._place.path + path, body, self._headers)
            with connection.getresponse() as response:
                wait = response.headers.get("Retry-After", "")
                text = response.read().decode(errors="replace")
                reply = Reply(response.status, text, max(1, int(wait)) if wait.isdecimal() else None)
        except BaseException:
            connection.close()
            raise
        if connection.sock:  # else the server wanted it closed
            self._idle.append(connection)
        return reply


def place_of(url: str) -> SplitResult:
    """The parts of a URL. Raises `ConfigError`."""
    try:
        place = urlsplit(url)
        if place.scheme in ("http", "https") and place.hostname and place.port != 0:
            return place
    except ValueError:  # a port that is no number, for one
        pass
    raise ConfigError(f"{url!r} is no URL of a gateway; give the one that `counterpoint serve` prints, http://127.0.0.1:8080/v1")


def authorization() -> dict[str, str]:
    """The header with the API key of the environment, if there is one. Raises `ConfigError`."""
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{KEY} holds characters that no key has; set it to the key alone")
    return {"Authorization": f"Bearer {key}"} if key else {}


def said_in(text: str) -> str:
    """The message of an error in OpenAI's form, else the beginning of the text."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(text[:200].split()) or "nothing"


def advice(status: int) -> str:
    """What to do about an error."""
    if status == 401:
        return f"Set {KEY} to a key that `counterpoint keys add` made"
    if status == 429:
        return "Raise the limits of the key or of the gateway, or ask fewer questions with --set evaluation.questions=N"
    if status >= 500:
        return "See the gateway's log for its models, and evaluate again when they answer"
    return "Change what is asked with --set, or the gateway's settings"
