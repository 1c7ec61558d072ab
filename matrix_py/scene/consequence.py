"""The end of a scene: what acting on the response came to, and what that makes of the response."""

from matrix_py.events import ConsequenceDrawn, ResponseKept, ResponseRevised
from matrix_py.scene.context import Scene
from matrix_py.scene.memory import Memory
from matrix_py.scene.quote import Quote

NO_HARM = "Nothing harmful was found."


async def draw_consequence(scene: Scene, memory: Memory, response: str) -> Quote | None:
    """Return the consequence, or None where nothing harmful was found."""
    if not memory.critiques:
        scene.emit(ConsequenceDrawn(harmful=False, text=NO_HARM))
        return None
    reply = await scene.turn(
        "consequence",
        # The critiques say it, too, if not as well.
        fallback="\n".join(memory.critiques),
        instruction=scene.instruction,
        response=response,
        story=memory.story or ["Nothing."],
        failed=memory.failed or ["Nothing."],
        critiques=memory.critiques,
    )
    scene.emit(ConsequenceDrawn(harmful=True, text=reply.text))
    return reply.text


async def revise(scene: Scene, response: str, consequence: Quote | None) -> None:
    """Answer again in the light of the consequence; without one, the response is kept."""
    if consequence is None:
        scene.emit(ResponseKept(reason=NO_HARM))
        return
    reply = await scene.turn("revise", instruction=scene.instruction, response=response, consequence=consequence)
    scene.emit(ResponseRevised(text=reply.text))
