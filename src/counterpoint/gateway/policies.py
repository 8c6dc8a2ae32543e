"""Who answers: the pair (DUET's two stages), one of the two alone, or m with M only where m is unsure.

Each policy is a generator of deltas over two upstreams; what it spends is written into the turn as it goes. The stages are those
of `duet/infer.py`: M writes a signal up to its closing tag, m answers with the signal as its thinking.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace

from counterpoint.duet.signal import SIGNAL_CLOSE
from counterpoint.gateway.api import Delta
from counterpoint.gateway.texts import Opening, Stopped, Until
from counterpoint.gateway.turn import Call, Turn, call
from counterpoint.gateway.types import Ask, Piece, Role, Upstream, UpstreamError
from counterpoint.gateway.upstreams.context import within

SHARE_OF_ANSWER = 4
"""Of a bound on signal and answer together, a quarter is kept for the answer."""


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
    async with aclosing(one_of(*answers, "capable", pair, turn, taken=bool(signal))) as deltas:
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
    answer: list[Piece] = []
    try:
        async with aclosing(call(pair.light, ask_answer(turn, "", logprobs=True), turn)) as pieces:
            async for piece in pieces:
                answer.append(piece)
    except UpstreamError as error:
        stand_in("capable", pair, turn, error)
        rest = alone(pair.capable, turn)
    else:
        sure, threshold = confidence(answer), pair.auto_threshold
        turn.blind = sure is None and any(piece.tokens for piece in answer)
        if any(piece.finish == "length" for piece in answer):
            sure = None
        rest = _these(answer) if sure is not None and threshold is not None and sure >= threshold else duet(pair, turn)
    async with aclosing(rest) as deltas:
        async for delta in deltas:
            yield delta


POLICIES = {"duet": duet, "light": light, "capable": capable, "auto": auto}


async def signal_by(model: Upstream, turn: Turn, reader: int | None = None) -> AsyncGenerator[str, None]:
    """The signal as it is written, without its tags. The request ends with it: no token after it is paid for.

    Args:
        reader: context length of the model that reads it, if it is known: what does not fit there is not asked for.
    """
    budget = within(turn.signal_tokens, reader, turn.messages, kept=turn.answer_tokens)
    if turn.total_tokens is not None:
        kept = min(turn.answer_tokens, max(1, turn.total_tokens // SHARE_OF_ANSWER))
        budget = min(budget, turn.total_tokens - kept)
    if budget < 1:
        return
    opening, until, thinking = Opening(), Until(SIGNAL_CLOSE), False
    ask = Ask("signal", turn.messages, budget, replace(turn.sampling, n=1, stop=()))
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


async def answer_by(model: Upstream, turn: Turn, signal: str) -> AsyncGenerator[Delta, None]:
    """The answer with a signal (empty: unaided)."""
    if turn.total_tokens is not None:
        await turn.settle()  # what is left for the answer is known only then
    async with aclosing(call(model, ask_answer(turn, signal), turn)) as pieces:
        async for piece in pieces:
            yield spoken(piece)


def ask_answer(turn: Turn, signal: str, logprobs: bool = False) -> Ask:
    budget = turn.answer_tokens
    if turn.total_tokens is not None:
        budget = min(budget, max(1, turn.total_tokens - turn.signal_written))
    return Ask("answer", turn.messages, budget, turn.sampling, signal, logprobs)


async def alone(model: Upstream, turn: Turn) -> AsyncGenerator[Delta, None]:
    """One model's reasoning and answer in one go, told apart.

    The client's stop strings are for the answer, and a server would end the reasoning at them too: they are looked for here, and
    the request ends once no choice goes on.
    """
    budget, n = turn.signal_tokens + turn.answer_tokens, turn.sampling.n
    ask = Ask("alone", turn.messages, min(budget, turn.total_tokens or budget), replace(turn.sampling, stop=()))
    parts, writing = [Stopped(turn.sampling.stop) for _ in range(n)], set(range(n))
    async with aclosing(call(model, ask, turn)) as pieces:
        async for piece in pieces:
            part = parts[piece.index]
            if piece.finish:
                writing.discard(piece.index)
            if not part.found:
                yield _split(piece, part, turn.calls[-1])
            if writing and all(parts[index].found for index in writing):
                break


def _split(piece: Piece, part: Stopped, record: Call) -> Delta:
    thought, said = part.feed(piece.text)
    if piece.finish:
        more_thought, more_said = part.end(finished=piece.finish == "stop")
        thought, said = thought + more_thought, said + more_said
    if piece.thinking or thought:
        record.thought += piece.tokens
    return Delta(piece.thinking + thought, said, piece.index, "stop" if part.found else piece.finish)


def spoken(piece: Piece) -> Delta:
    """A piece of an answer, with what a server took for reasoning in it as such."""
    return Delta(piece.thinking, piece.text, piece.index, piece.finish)


async def one_of(
    first: AsyncGenerator[Delta, None],
    second: AsyncGenerator[Delta, None],
    second_is: Role,
    pair: Pair,
    turn: Turn,
    taken: bool = False,
) -> AsyncGenerator[Delta, None]:
    """What `first` says; what `second` says if `first` fails before the client has seen any of it.

    Args:
        taken: the second model has taken this request before.
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
        stand_in(second_is, pair, turn, error, taken)
        said = []
        async with aclosing(second) as deltas:
            async for delta in deltas:
                yield delta
    for delta in said:
        yield delta


def stand_in(role: Role, pair: Pair, turn: Turn, error: UpstreamError, taken: bool = False) -> None:
    """Let the other model answer, said in the turn. Raises `error` where that is forbidden, useless, or was done before.

    A request that one model rejects the other would too, unless it has `taken` it: then it became too long by the signal.
    """
    if not pair.fallback or turn.fallback or (error.kind == "rejected" and not taken):
        raise error
    turn.fallback = role


def confidence(pieces: list[Piece]) -> float | None:
    """Mean log-probability of the tokens in nats; None without tokens, or where the server does not tell it of all of them."""
    spoken_for = [piece.logprob for piece in pieces if piece.tokens]
    told = [logprob for logprob in spoken_for if logprob is not None]
    return sum(told) / sum(piece.tokens for piece in pieces) if told and len(told) == len(spoken_for) else None


async def _these(pieces: list[Piece]) -> AsyncGenerator[Delta, None]:
    for piece in pieces:
        yield spoken(piece)
