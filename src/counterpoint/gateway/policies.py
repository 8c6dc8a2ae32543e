"""Who answers: the pair (DUET's two stages), one of the two alone, or m with M only where m is unsure.

Each policy is a generator of deltas over two upstreams; what it spends is written into the turn as it goes. The stages are those
of `duet/infer.py`: M writes a signal up to its closing tag, m answers with the signal as its thinking.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace

from counterpoint.duet.signal import SIGNAL_CLOSE
from counterpoint.gateway.api import Delta
from counterpoint.gateway.budgets import too_long
from counterpoint.gateway.texts import Opening, Reply, Thinking, Until
from counterpoint.gateway.turn import Turn, call
from counterpoint.gateway.types import Ask, Piece, Role, Upstream, UpstreamError

BLIND = "auto asks the pair every time: m's server gives no log-probabilities; have it, or take duet"
ODD = (
    "m's server refuses what M's takes, and not for its length: its words are in the request's error; see light.omit, light.extra"
)


@dataclass(frozen=True)
class Pair:
    """The two models, and the rules between them."""

    capable: Upstream
    light: Upstream
    fallback: bool = True
    auto_threshold: float | None = None
    """Mean log-probability in nats from which m's unaided answer stands."""


async def duet(pair: Pair, turn: Turn) -> AsyncGenerator[Delta, None]:
    """M writes the signal, m answers with it. If M fails, m answers with as much of it as there is."""
    signal = ""
    try:
        async with aclosing(signal_by(pair.capable, turn, pair.light.context_length)) as texts:
            async for text in texts:
                signal += text
                yield Delta(reasoning=text)
    except UpstreamError as error:
        stand_in("light", pair, turn, error)
    answers = answer_by(pair.light, turn, signal), answer_by(pair.capable, turn, signal)
    async with aclosing(one_of(*answers, "capable", pair, turn, signal)) as deltas:
        async for delta in deltas:
            yield delta


def light(pair: Pair, turn: Turn) -> AsyncGenerator[Delta, None]:
    """m answers unaided."""
    return one_of(answer_by(pair.light, turn, ""), alone(pair.capable, turn), "capable", pair, turn)


def capable(pair: Pair, turn: Turn) -> AsyncGenerator[Delta, None]:
    """M thinks and answers."""
    return one_of(alone(pair.capable, turn), answer_by(pair.light, turn, ""), "light", pair, turn)


async def auto(pair: Pair, turn: Turn) -> AsyncGenerator[Delta, None]:
    """m answers unaided; where it is not sure enough of what it said, that is dropped and the pair is asked.

    An answer that its budget cut off is none to be sure of. Nor is one whose log-probabilities the server does not tell.
    """
    said: list[Delta] = []
    heard: list[Piece] = []
    rest = duet(pair, turn)
    try:
        async with aclosing(answer_by(pair.light, turn, "", heard)) as deltas:
            async for delta in deltas:
                said.append(delta)
    except UpstreamError as error:
        if error.kind == "rejected":  # log-probabilities, it may be; if it is the question, the pair rejects it too
            turn.blind = True
        else:
            stand_in("capable", pair, turn, error)
            rest = alone(pair.capable, turn)
    else:
        sure, threshold = confidence(heard), pair.auto_threshold
        turn.blind = sure is None and any(piece.tokens for piece in heard)
        if any(piece.finish == "length" for piece in heard):
            sure = None
        if sure is not None and threshold is not None and sure >= threshold:
            rest = _these(said)
    if turn.blind:
        turn.warnings.add(BLIND)
    async with aclosing(rest) as deltas:
        async for delta in deltas:
            yield delta


POLICIES = {"duet": duet, "light": light, "capable": capable, "auto": auto}


async def signal_by(model: Upstream, turn: Turn, reader: int | None = None) -> AsyncGenerator[str, None]:
    """The signal as it is written, without its tags. The request ends with it: no token after it is paid for.

    Args:
        reader: context length of the model that reads it, if it is known: what does not fit there is not asked for.
    """
    budget = turn.budgets.for_signal(turn.messages, reader)
    if budget < 1:
        return
    opening, until, thinking = Opening(), Until(SIGNAL_CLOSE), False
    named = budget if turn.budgets.signal_named else 0
    ask = Ask("signal", turn.messages, budget, replace(turn.sampling, n=1, stop=()), named_tokens=named)
    async with AsyncExitStack() as until_left:
        pieces = await until_left.enter_async_context(aclosing(call(model, ask, turn)))
        async for piece in pieces:
            thinking = thinking or bool(piece.thinking)
            if thinking and piece.text.strip():
                break  # a server that tells reasoning apart has come to its answer
            text = until.feed(piece.thinking if thinking else opening.feed(piece.text))
            if text:
                yield text
            if until.found:
                if model.thinks == "hidden":  # it ends now, and only then says what it thought
                    until_left.pop_all()
                    turn.let_end(pieces)
                break
    if rest := until.feed(opening.end()) + until.end():
        yield rest


async def answer_by(model: Upstream, turn: Turn, signal: str, heard: list[Piece] | None = None) -> AsyncGenerator[Delta, None]:
    """The answer with a signal (empty: unaided).

    Args:
        heard: gets the pieces, with log-probabilities.
    """
    if turn.budgets.total is not None:
        await turn.settle()  # what is left for the answer is known only then
    replies = [Reply(turn.sampling.stop) for _ in range(turn.sampling.n)]
    async with aclosing(told(model, ask_answer(turn, signal, heard is not None), turn, replies, heard)) as deltas:
        async for delta in deltas:
            yield delta


def ask_answer(turn: Turn, signal: str, logprobs: bool = False) -> Ask:
    budget = turn.budgets.for_answer(turn.signal_written)
    named = budget if turn.budgets.answer_named else 0
    return Ask("answer", turn.messages, budget, turn.sampling, signal, logprobs, named)


async def alone(model: Upstream, turn: Turn) -> AsyncGenerator[Delta, None]:
    """One model's reasoning and answer in one go, told apart; the answer has no more tokens than it may.

    The client's stop strings are for the answer. A server would end reasoning that is in the text at them too, so it is not told
    of them then: they are looked for here.
    """
    sampling = turn.sampling if model.thinks == "hidden" else replace(turn.sampling, stop=())
    ask = Ask("alone", turn.messages, turn.budgets.alone, sampling, named_tokens=turn.budgets.alone_named)
    opened, stop = model.thinks == "opened", turn.sampling.stop
    replies = [Reply(stop, turn.budgets.answer, Thinking(opened)) for _ in range(sampling.n)]
    async with aclosing(told(model, ask, turn, replies)) as deltas:
        async for delta in deltas:
            yield delta


async def told(
    model: Upstream, ask: Ask, turn: Turn, replies: Sequence[Reply], heard: list[Piece] | None = None
) -> AsyncGenerator[Delta, None]:
    """What the choices of a call say. The call ends once all have said enough.

    But one of a model that thinks out of sight is read to its end: only there does it say what that took, and a client's stop
    string would hide it from the books.
    """
    writing = set(range(len(replies)))
    async with aclosing(call(model, ask, turn)) as pieces:
        async for piece in pieces:
            if heard is not None:
                heard.append(piece)
            reply = replies[piece.index]
            if piece.finish:
                writing.discard(piece.index)
            if not reply.over:
                thought, said, finish = reply.hear(piece)
                if thought:
                    turn.calls[-1].thought += piece.tokens
                yield Delta(thought, said, piece.index, finish)
            if writing and all(replies[index].over for index in writing) and model.thinks != "hidden":
                break


async def one_of(
    first: AsyncGenerator[Delta, None],
    second: AsyncGenerator[Delta, None],
    second_is: Role,
    pair: Pair,
    turn: Turn,
    signal: str = "",
) -> AsyncGenerator[Delta, None]:
    """What `first` says; what `second` says if `first` fails before the client has seen any of it.

    Args:
        signal: what the second model has written, so it has taken this request before.
    """
    said: list[Delta] = []
    seen = False
    try:
        async with aclosing(first) as deltas:
            async for delta in deltas:
                if turn.streaming:
                    seen = seen or bool(delta.reasoning or delta.content)
                    yield delta
                else:
                    said.append(delta)
    except UpstreamError as error:
        if seen:
            raise
        stand_in(second_is, pair, turn, error, signal)
        said = []
        async with aclosing(second) as deltas:
            async for delta in deltas:
                yield delta
    for delta in said:
        yield delta


def stand_in(role: Role, pair: Pair, turn: Turn, error: UpstreamError, signal: str = "") -> None:
    """Let the other model answer, said in the turn. Raises `error` where that is forbidden, useless, or was done before.

    A request that one model rejects the other would too, unless it became too long by the other's signal.
    """
    rejected = error.kind == "rejected"
    if rejected and signal:
        rejected = not too_long(error, ask_answer(turn, signal), pair.light.context_length)
        if rejected:
            turn.warnings.add(ODD)
    if rejected or not pair.fallback or turn.fallback:
        raise error
    turn.fallback = role


def confidence(pieces: Sequence[Piece]) -> float | None:
    """Mean log-probability in nats of the tokens of the least sure choice, of those tokens of which the server tells it.

    None without tokens, or where it tells it of none of a choice.
    """
    means: list[float] = []
    for index in {piece.index for piece in pieces if piece.tokens}:
        told = [(piece.logprob, piece.tokens) for piece in pieces if piece.index == index and piece.logprob is not None]
        if not told:
            return None
        means.append(sum(logprob for logprob, _ in told) / sum(tokens for _, tokens in told))
    return min(means, default=None)


async def _these(deltas: Sequence[Delta]) -> AsyncGenerator[Delta, None]:
    for delta in deltas:
        yield delta
