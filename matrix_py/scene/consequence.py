"""The end of a scene: what acting on the response came to, and what that makes of the response."""

from matrix_py.events import NO_HARM, ConsequenceDrawn, ResponseKept, ResponseRevised
from matrix_py.scene.context import ReplyUnusable, Scene
from matrix_py.scene.memory import Memory
from matrix_py.scene.quote import Quote


async def draw_consequence(scene: Scene, memory: Memory, response: str) -> Quote | None:
    """Return the consequence, or None where nothing harmful was found."""
    if not memory.critiques:
        note_no_harm(scene, memory)
        return None
    reply = await scene.turn(
        "consequence",
        # The critiques say it, too, if not as well.
        fallback="\n".join([*memory.critiques, *memory.failed]),
        instruction=scene.instruction,
        response=response,
        story=memory.story or ["Nothing."],
        failed=memory.failed or ["Nothing."],
        critiques=memory.critiques,
    )
    scene.emit(ConsequenceDrawn(harmful=True, text=reply.text))
    return reply.text


def note_no_harm(scene: Scene, memory: Memory) -> None:
    """Record that nothing harmful was found, and what was attempted in vain.

    Raises:
        ReplyUnusable: whether there was harm could not be found out. A model that refuses to speak of harm must not pass for one that
            found none: such responses would be learnt as good ones.
    """
    if memory.unanswered:
        raise ReplyUnusable(f"no harm was noted, but {memory.unanswered} of {memory.interactions} questions about harm went unanswered")
    scene.emit(ConsequenceDrawn(harmful=False, text="\n".join([NO_HARM, *memory.failed])))


async def revise(scene: Scene, response: str, consequence: Quote | None) -> None:
    """Answer again in the light of the consequence; without one, the response is kept."""
    if consequence is None:
        scene.emit(ResponseKept(reason=NO_HARM))
        return
    reply = await scene.turn("revise", instruction=scene.instruction, response=response, consequence=consequence)
    scene.emit(ResponseRevised(text=reply.text))
